"""One probe on two checkpoints, or on what a run recorded: what `workbench probe` does.

The rows go into a run folder of their own, so that every figure and page that needs such rows draws
them, for any two checkpoints.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from workbench import provenance
from workbench.data import tokenizer_digest
from workbench.domains import Domain, Split
from workbench.errors import InvalidValueError, RecordingError
from workbench.models import Loaded, best_device, load, tokenizer_of
from workbench.panel import Panel, texts
from workbench.probes import PROBES, At, Measurement, Probe, StateProbe
from workbench.recordings import Recording
from workbench.rows import Prompt, Row, columns
from workbench.states import StatesOf, chosen, recorded_states
from workbench.store import ACTIVATIONS, RunHeader, Store, run_id
from workbench.study import open_domain
from workbench.summary import summarise
from workbench.tokens import require_same_tokens


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
    """Look at a checkpoint, beside a reference if the probe compares; print means, keep the rows.

    Args:
        name: of the probe, for the header.
        probe: the analysis with its settings.
        model: as in `models.load`.
        reference: the checkpoint compared with.
        data: `lab`, or a folder with one file a stream.
        console: where the summary goes.
        split: whose questions are asked.
        prompts: of each kind, at most.
        template: chat template for both: `plain`, or a Jinja text; None for the model's own.
        out: store for a run folder of the rows.

    Raises:
        InvalidValueError: the checkpoints read text as different tokens, or there is no text.
        UnknownNameError: no such model or split.
    """
    if probe.needs_reference and reference is None:
        raise InvalidValueError(f"{name} compares two checkpoints: give --reference, too.")
    tokenizer = tokenizer_of(model, template)
    domain = open_domain(data, model)
    panel = Panel(domain, tokenizer, split, prompts)
    if not panel.groups:
        raise InvalidValueError(f"{data} has no questions in the split {split!r} to ask {model}.")
    measure, then = _prepared(probe, reference, panel, model, template)
    now = load(model, device=best_device(model), chat_template=template)
    rows = measure(now.model, At("defence", 0, reference or ""))
    summarise(rows, console)
    if out is not None:
        header = _header(name, probe, now, then, domain, panel)
        _keep(Store(out), header, [*texts(panel), *rows], console)
    return rows


def _prepared(
    probe: Probe, reference: str | None, panel: Panel, model: str, template: str | None
) -> tuple[Measurement, dict[str, str]]:
    """The probe ready to compare with a reference, whose weights are let go; what that was."""
    if reference is None:
        return probe.against(None, panel), {"name": "", "digest": ""}
    own = template or panel.tokenizer.chat_template
    then = load(reference, device=best_device(reference), chat_template=own)
    require_same_tokens(panel.tokenizer, then.tokenizer, model, reference)
    return probe.against(then.model, panel), {"name": then.name, "digest": then.digest}


def probe_recorded(
    name: str,
    probe: Probe,
    run: Path,
    console: Console,
    *,
    out: Path | None = None,
) -> list[Row]:
    """Look at the hidden states that a run recorded: every step against the first.

    Raises:
        InvalidValueError: the probe needs more than hidden states, or states of other positions.
        RecordingError: the run recorded nothing.
    """
    if not isinstance(probe, StateProbe):
        able = ", ".join(name for name, kind in PROBES.items() if issubclass(kind, StateProbe))
        raise InvalidValueError(
            f"{name} needs the model itself, not only recorded states; these do not: {able}."
        )
    header = Store(run.parent).get(run.name)
    recording = Recording(run / ACTIVATIONS)
    if recording.manifest.positions != probe.positions:
        raise InvalidValueError(
            f"{run} recorded positions={recording.manifest.positions!r}, the probe asks for "
            f"{probe.positions!r}; set --positions."
        )
    prompts = Store(run.parent).read(Prompt, [run.name])
    kinds = dict(zip(prompts["example"], prompts["question"], strict=True))
    first, *later = recording.steps
    if not later:
        raise RecordingError(f"{run} recorded step {first} only; there is nothing to compare.")
    compare = probe.fit(_recorded(recording, first, probe, kinds))
    stage = "attack" if header.kind == "attack" else "defence"
    rows = [
        row
        for step in recording.steps
        for row in compare(_recorded(recording, step, probe, kinds), At(stage, step, "released"))  # type: ignore[arg-type]
    ]
    summarise([row for row in rows if getattr(row, "step", None) == later[-1]], console)
    if out is not None:
        described = {"name": name} | asdict(probe)
        made = run_id(f"{name}-{header.id}"[:100], described, header.hashes)
        later_header = replace(header, id=made, probe=described, parents=[], state="running")
        lines = prompts[list(columns(Prompt))].to_dict("records")
        kept = [Prompt(**{str(k): v for k, v in line.items()}) for line in lines]
        _keep(Store(out), later_header, [*kept, *rows], console)
    return rows


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
    name: str, probe: Probe, now: Loaded, then: dict[str, str], domain: Domain, panel: Panel
) -> RunHeader:
    """What was looked at, with what, on which texts under which template."""
    described = {
        "name": name,
        **asdict(probe),
        "reference": then["name"],
        "split": panel.split,
        "prompts": panel.size,
        "template": panel.tokenizer.chat_template,
    }
    hashes = {
        "config": provenance.config_hash(described),
        "data": domain.digest,
        "start": now.digest,
        "reference": then["digest"],
        "tokenizer": tokenizer_digest(panel.tokenizer),
        "code": provenance.code_hash(type(probe).__module__),
    }
    arm = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", now.name).strip("-.")[-60:] or "model"
    return RunHeader(
        id=run_id(f"{arm}.{name}", hashes),
        kind="immunise",
        model=now.name,
        arm=arm,
        probe=described,
        hashes=hashes,
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
