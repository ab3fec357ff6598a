"""One probe on two checkpoints, or on what a run recorded: what `workbench probe` does.

The rows go into a run folder of their own, so that every figure and page that needs such rows draws
them, for any two checkpoints.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from workbench import provenance
from workbench.data import template_of, tokenizer_digest
from workbench.domains import Split
from workbench.errors import InvalidValueError, RecordingError
from workbench.headers import SCHEMA
from workbench.models import Loaded, best_device, load, tokenizer_of
from workbench.panel import Panel, texts
from workbench.probes import PROBES, At, Measurement, Probe, StateProbe
from workbench.probes._base import LeaveOut, measurements
from workbench.recordings import Recording, is_recording
from workbench.rows import Prompt, Row, Stage, columns
from workbench.states import StatesOf, chosen, recorded_states
from workbench.store import ACTIVATIONS, RunHeader, Store, run_id
from workbench.study import Study, open_domain
from workbench.summary import summarise
from workbench.tokens import require_same_tokens


@dataclass(frozen=True)
class Looked:
    """What some probes saw of one checkpoint."""

    header: RunHeader
    rows: list[Row]
    """Of the probes, without the texts they read."""
    panel: Panel

    def keep(self, out: Path, console: Console) -> None:
        """Write rows and texts into a run folder of a store, unless it is there already."""
        _keep(Store(out), self.header, [*texts(self.panel), *self.rows], console)


def probe_models(
    name: str,
    probe: Probe,
    model: str,
    reference: str | None,
    data: str,
    console: Console,
    *,
    split: Split = "test",
    prompts: int = 32,
    template: str | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Look at a checkpoint with one probe, print means, and keep the rows in a store if wanted.

    Arguments and errors are those of `look`.
    """
    looked = look(
        name, {name: probe}, model, reference, data, split=split, prompts=prompts, template=template
    )
    summarise(looked.rows, console)
    if out is not None:
        looked.keep(out, console)
    return looked.rows


def look(
    name: str,
    probes: Mapping[str, Probe],
    model: str,
    reference: str | None,
    data: str,
    *,
    split: Split = "test",
    prompts: int = 32,
    template: str | None = None,
    whole: bool = False,
    leave_out: LeaveOut = lambda name: nullcontext(),
    **more: Any,
) -> Looked:
    """Look at a checkpoint, beside a reference if a probe compares. One of them is in memory.

    Args:
        name: of what is done, for the header.
        probes: the analyses with their settings, by name.
        model: as in `models.load`.
        reference: the checkpoint compared with.
        data: `lab`, `builtin`, or a folder with one file a stream.
        split: whose questions are asked.
        prompts: of each kind, at most.
        template: chat template for both: `plain`, or a Jinja text; None for the model's own.
        whole: ask all rows of files, whatever their split.
        leave_out: what a probe may fail with and cost its own rows only; by default nothing.
        more: what else the numbers depend on, for the header.

    Raises:
        InvalidValueError: the checkpoints read text as different tokens, or there is no text.
        UnknownNameError: no such model or split.
    """
    lacking = [n for n, probe in probes.items() if probe.needs_reference and reference is None]
    if lacking:
        raise InvalidValueError(f"{lacking[0]} compares two checkpoints: give --reference, too.")
    domain = open_domain(data, model, whole=whole)
    panel = Panel(domain, tokenizer_of(model, template), split, prompts)
    if not panel.groups:
        raise InvalidValueError(f"{data} has no questions in the split {split!r} to ask {model}.")
    measures, then = _prepared(probes, reference, panel, model, template, leave_out)
    now = load(model, device=best_device(model), chat_template=template)
    at = At("defence", 0, reference or "")
    rows = [row for measure in measures for row in measure(now.model, at)]
    settings = {n: asdict(probe) for n, probe in probes.items()}
    described = {"name": name, "probes": settings, "reference": then["name"], **more}
    described |= {"split": None if whole else split, "prompts": prompts}
    modules = [type(probe).__module__ for probe in probes.values()]
    return Looked(_header(described, now, then["digest"], panel, modules), rows, panel)


def _prepared(
    probes: Mapping[str, Probe],
    reference: str | None,
    panel: Panel,
    model: str,
    template: str | None,
    leave_out: LeaveOut,
) -> tuple[list[Measurement], dict[str, str]]:
    """The probes ready to compare with a reference, whose model is let go; what that was."""
    if reference is None:
        return measurements(probes, None, panel, leave_out), {"name": "", "digest": ""}
    own = template or panel.tokenizer.chat_template
    then = load(reference, device=best_device(reference), chat_template=own)
    require_same_tokens(panel.tokenizer, then.tokenizer, model, reference)
    measures = measurements(probes, then.model, panel, leave_out)
    return measures, {"name": then.name, "digest": then.digest}


def probe_recorded(
    name: str,
    probe: Probe,
    run: Path,
    console: Console,
    *,
    out: Path | None = None,
) -> list[Row]:
    """Look at the hidden states that a run recorded: every step against the first.

    Says so if the recording is torn or still being written.

    Raises:
        InvalidValueError: the probe needs more than hidden states, or states of other positions.
        RecordingError: the run recorded nothing.
    """
    if not isinstance(probe, StateProbe):
        able = ", ".join(name for name, kind in PROBES.items() if issubclass(kind, StateProbe))
        raise InvalidValueError(
            f"{name} needs more of a checkpoint than the hidden states that a run records: its "
            f"head, weights or gradients. Give --model, or --recording to one of: {able}."
        )
    recording = _recording(run, probe)
    header = Store(run.parent).get(run.name)
    prompts = Store(run.parent).read(Prompt, [run.name])
    kinds = dict(zip(prompts["example"], prompts["question"], strict=True))
    first, *later = recording.steps
    if not later:
        raise RecordingError(f"{run} recorded step {first} only; there is nothing to compare.")
    if recording.unfinished:
        console.print(recording.unfinished, style="yellow", markup=False, highlight=False)
    compare = probe.fit(_recorded(recording, first, probe, kinds))
    stage, reference = _begun(header)
    rows = [
        row
        for step in recording.steps
        for row in compare(_recorded(recording, step, probe, kinds), At(stage, step, reference))
    ]
    summarise([row for row in rows if getattr(row, "step", None) == later[-1]], console)
    if out is not None:
        read = {"steps": [*recording.steps], "complete": recording.manifest.complete}
        described = {"name": name, "probes": {name: asdict(probe)}, "recording": read}
        made = run_id(f"{name}-{header.id}"[:100], described, header.hashes)
        later_header = replace(
            header, schema=SCHEMA, id=made, probe=described, parents=[], state="running"
        )
        lines = prompts[list(columns(Prompt))].to_dict("records")
        kept = [Prompt(**{str(k): v for k, v in line.items()}) for line in lines]
        _keep(Store(out), later_header, [*kept, *rows], console)
    return rows


def _recording(run: Path, probe: StateProbe) -> Recording:
    """What a run recorded, if it is what the probe reads."""
    if is_recording(run):
        raise RecordingError(
            f"{run} is a recording, not the folder of a run. Give the run's folder; two recordings "
            "of published checkpoints are laid side by side by workbench.alignment.read_both."
        )
    recording = Recording(run / ACTIVATIONS, warn=False)  # said on the console
    if recording.manifest.positions != probe.positions:
        raise InvalidValueError(
            f"{run} recorded positions={recording.manifest.positions!r}, the probe asks for "
            f"{probe.positions!r}; set --positions."
        )
    return recording


def _begun(header: RunHeader) -> tuple[Stage, str]:
    """The stage that a run recorded, and the name of the model at its first step.

    As live rows name it: an attack begins with the `released` model, a defence on a lab model with
    its `base`. Where a defence begins with another one, that is no live row's reference: `start`.
    """
    if header.kind == "attack":
        return "attack", "released"
    return "defence", "base" if Study(model=header.model).reference() == header.model else "start"


def _recorded(
    recording: Recording, step: int, probe: StateProbe, kinds: dict[str, str]
) -> StatesOf:
    """The recorded states by group of text and site."""
    found = {}
    for site in probe.sites:
        states = recorded_states(recording, step, site)
        for group in dict.fromkeys(kinds.get(example, "") for example in states.examples):
            of_group = tuple(x for x in states.examples if kinds.get(x, "") == group)
            found[group, site] = chosen(states, of_group)
    return found


def _header(
    described: dict[str, Any],
    now: Loaded,
    reference: str,
    panel: Panel,
    modules: Sequence[str],
) -> RunHeader:
    """What was looked at, with what, on which texts under which template."""
    described = described | {"template": template_of(panel.tokenizer)}
    hashes = {
        "config": provenance.config_hash(described),
        "data": panel.domain.digest,
        "start": now.digest,
        "reference": reference,
        "tokenizer": tokenizer_digest(panel.tokenizer),
        "code": provenance.code_hash(*modules),
    }
    arm = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", now.name).strip("-.")[-60:] or "model"
    return RunHeader(
        id=run_id(f"{arm}.{described['name']}", hashes),
        kind="immunise",
        model=now.name,
        arm=arm,
        probe=described,
        hashes=hashes,
        modules=[*modules],
        template=described["template"],
        versions=provenance.library_versions(),
        git=provenance.git_state(),
    )


def _keep(store: Store, header: RunHeader, rows: Sequence[Row], console: Console) -> None:
    if store.folder(header.id).is_dir() and store.get(header.id).state == "finished":
        console.print(f"already there: {store.folder(header.id)}", highlight=False)
        return
    with store.begin(header) as writer:
        writer.append(rows)
    console.print(f"run folder: {store.folder(header.id)}", highlight=False)
