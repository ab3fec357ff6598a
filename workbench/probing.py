"""Probes on two checkpoints: what `workbench probe --model` does.

The rows go into a run folder of their own, so that every figure and page that needs such rows draws
them, for any two checkpoints.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from workbench import provenance
from workbench.chat_templates import template_of
from workbench.data import tokenizer_digest
from workbench.domains import Domain, Split
from workbench.errors import InvalidValueError, ModelError
from workbench.models import Loaded, best_device, load, tokenizer_of
from workbench.panel import USUAL, Panel, texts
from workbench.probes import At, Measurement, Probe
from workbench.probes._base import LeaveOut, measurements
from workbench.rows import Row
from workbench.store import RunHeader, Store, run_id
from workbench.study import open_domain
from workbench.summary import summarise
from workbench.tokens import require_same_tokens

PROMPTS = 32
"""Of each kind, where nobody says how many."""


@dataclass(frozen=True)
class Looked:
    """What some probes saw of one checkpoint."""

    header: RunHeader
    rows: list[Row]
    """Of the probes, without the texts they read."""
    panel: Panel

    def keep(self, out: Path, console: Console) -> None:
        """Write rows and texts into a run folder of a store, unless it is there already."""
        keep(Store(out), self.header, [*texts(self.panel), *self.rows], console)


def probe_models(
    name: str,
    probe: Probe,
    model: str,
    reference: str | None,
    data: str,
    console: Console,
    *,
    split: Split = "test",
    prompts: int | None = None,
    template: str | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Look at a checkpoint with one probe, print means, and keep the rows in a store if wanted.

    Arguments and errors are those of `look`. One file is read whole.

    Raises:
        RunError: the store cannot be written, found out before anything is loaded.
    """
    if out is not None:
        Store(out).require_writable()
    looked = look(
        name, {name: probe}, model, reference, data,
        split=split, prompts=prompts, template=template, whole=Path(data).is_file(),
    )  # fmt: skip
    summarise(looked.rows, console)
    console.print(f"prompts: {looked.panel.counted}", highlight=False)
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
    prompts: int | None = None,
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
        prompts: of each kind, at most; None for `PROMPTS`, or for all where files are read whole.
        template: chat template for both: `plain`, or a Jinja text; None for the model's own.
        whole: ask all rows of files, whatever their split.
        leave_out: what a probe may fail with and cost its own rows only; by default nothing.
        more: what else the numbers depend on, for the header.

    Raises:
        InvalidValueError: the checkpoints read text as different tokens, or there is no text.
        ModelError: no usable chat model, or weights that are not finite.
        UnknownNameError: no such model or split.
    """
    lacking = [n for n, probe in probes.items() if probe.needs_reference and reference is None]
    if lacking:
        raise InvalidValueError(f"{lacking[0]} compares two checkpoints: give --reference, too.")
    domain = open_domain(data, model, whole=whole)
    held = _held(domain, split)
    size = prompts if prompts is not None else held if whole and held else PROMPTS
    panel = Panel(domain, tokenizer_of(model, template), split, size)
    if not panel.groups:
        raise InvalidValueError(f"{data} has no questions in the split {split!r} to ask {model}.")
    measures, then = _prepared(probes, reference, panel, model, template, leave_out)
    now = _sound(load(model, device=best_device(model), chat_template=template))
    at = At("defence", 0, reference or "")
    rows = [row for measure in measures for row in measure(now.model, at)]
    settings = {n: asdict(probe) for n, probe in probes.items()}
    described = {"name": name, "probes": settings, "reference": then["name"], **more}
    described |= {"split": None, "held": held} if whole else {"split": split}
    described["prompts"] = size
    modules = [type(probe).__module__ for probe in probes.values()]
    return Looked(_header(described, now, then["digest"], panel, modules), rows, panel)


def _sound(loaded: Loaded) -> Loaded:
    """Refuse a checkpoint that is broken, which not every probe would notice.

    Raises:
        ModelError: its weights hold NaN or infinity.
    """
    bad = [
        name
        for name, x in loaded.model.named_parameters()
        if x.is_floating_point() and x.element_size() > 1 and not x.isfinite().all()
    ]
    if bad:
        raise ModelError(
            f"{loaded.name}: weights are not finite: {', '.join(bad[:4])}"
            f"{', ...' if len(bad) > 4 else ''}. Nothing can be compared with it; save it anew."
        )
    return loaded


def _held(domain: Domain, split: Split) -> int:
    """How many questions there are of the kind that a panel can read most of."""
    return max(len(domain.texts(split, group)) for group in USUAL)


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
    then = _sound(load(reference, device=best_device(reference), chat_template=own))
    require_same_tokens(panel.tokenizer, then.tokenizer, model, reference)
    measures = measurements(probes, then.model, panel, leave_out)
    return measures, {"name": then.name, "digest": then.digest}


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


def keep(store: Store, header: RunHeader, rows: Sequence[Row], console: Console) -> None:
    """Write rows into a run folder, unless it is there already; say where it is."""
    if store.folder(header.id).is_dir() and store.get(header.id).state == "finished":
        console.print(f"already there: {store.folder(header.id)}", highlight=False)
        return
    with store.begin(header) as writer:
        writer.append(rows)
    console.print(f"run folder: {store.folder(header.id)}", highlight=False)
