"""Two published checkpoints side by side, without training: rows of several probes, one report.

Checkpoints of different sizes can be compared by what they say, not weight by weight: a probe that
they do not suit is left out, and console and report say which and why. With a third checkpoint that
both come from, what each added to its weights is a run of its own: a run has one reference.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from workbench import provenance
from workbench.comparison_report import prompts_read, weights_label, write_report
from workbench.data import tokenizer_digest
from workbench.domains import Split
from workbench.errors import (
    InvalidValueError,
    MissingStreamError,
    ModelError,
    SiteError,
    WorkbenchError,
)
from workbench.models import digest_of, tokenizer_of
from workbench.probing import Looked, look
from workbench.rows import Row, WeightChange
from workbench.store import Store, run_id
from workbench.study import probe
from workbench.task_vectors import WHOLE, Gram, gram
from workbench.tokens import require_same_tokens

COMPARED = ("vocabulary", "drift", "similarity", "cosine", "weights")
"""The probes of a comparison: of what is said, of hidden states, of weights."""
ANGLES = "angles"
"""What a third checkpoint adds, as it is called where it is left out."""
UNSUITED = (InvalidValueError, MissingStreamError, ModelError, SiteError)
"""What says that a pair, its family or the texts do not suit a probe: that costs its rows alone."""
REPORT = "report.html"


def compare(
    model: str,
    reference: str,
    out: Path,
    console: Console,
    *,
    base: str | None = None,
    data: str = "builtin",
    split: Split = "test",
    prompts: int | None = None,
    template: str | None = None,
    probes: tuple[str, ...] = COMPARED,
) -> Path:
    """Compare a checkpoint with another one; return the report's file.

    Probes that this pair or these texts do not suit are left out, with their reasons.

    Args:
        model: the checkpoint, as in `models.load`.
        reference: what it is compared with.
        out: a store: it gets a run folder with the rows, and the report.
        console: where progress goes.
        base: a third checkpoint from which both come: gives the angle between what each added.
        data: `builtin`, `lab`, a folder with one file a stream, or one file, which is read whole.
        split: whose questions are read, but of one file.
        prompts: of each kind, at most; None for 32, or for all of one file.
        template: chat template for both; None for the model's own.
        probes: names of the probes.

    Raises:
        InvalidValueError: checkpoints that cannot be compared, or not by any of the probes; the
            message says why.
        ModelError: what is no usable chat model.
        UnknownNameError: no such checkpoint, or no probe of that name.
        RunError: the store cannot be written, found out before anything is loaded.
    """
    Store(out).require_writable()
    one = tokenizer_of(model, template)
    own = template or one.chat_template
    require_same_tokens(one, tokenizer_of(reference, own), model, reference)  # before any weights
    left_out: dict[str, WorkbenchError] = {}

    @contextmanager
    def leave_out(name: str) -> Iterator[None]:
        try:
            yield
        except UNSUITED as why:
            left_out[name] = why

    vectors = None
    if base is not None:
        with leave_out(ANGLES):
            vectors = gram(base, [model, reference])
    console.print(f"comparing {model} with {reference} on {data}", highlight=False)
    looked = look(
        "compare", {name: probe(name) for name in probes}, model, reference, data,
        split=split, prompts=prompts, template=template,
        whole=Path(data).is_file(), leave_out=leave_out, base=base or "",
        digest=tokenizer_digest(one),
    )  # fmt: skip
    looked = _noted(looked, left_out)
    runs = [looked]
    if vectors is not None and base is not None:
        runs.append(_added(looked, vectors, base, reference))
    if not any(run.rows for run in runs):
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InvalidValueError(
            f"nothing was measured: none of {', '.join(probes)} gave a row. {why}".rstrip()
        )
    for name, reason in left_out.items():
        console.print(f"left out: {name}. {reason}", markup=False, highlight=False)
    for run in runs:
        run.keep(out, console)
    names = [run.header.id for run in runs]
    report = write_report(Store(out), names, model, reference, out / REPORT)
    _say(runs, console)
    console.print(f"report: {report}\npages: python -m app {out}", highlight=False)
    return report


def _noted(looked: Looked, left_out: Mapping[str, Exception]) -> Looked:
    """The header says what was left out, so that the report does."""
    reasons = {name: str(why) for name, why in left_out.items()}
    about = (looked.header.probe or {}) | {"left_out": reasons}
    return replace(looked, header=replace(looked.header, probe=about))


def _added(looked: Looked, vectors: Gram, base: str, reference: str) -> Looked:
    """What both checkpoints added to their base, as a run beside the one they were looked at in.

    Figures average what an arm has against different references, so it is an arm of its own.
    """
    one = looked.header
    origin = {"reference": digest_of(base), "beside": one.hashes["reference"]}
    hashes = one.hashes | origin | {"code": provenance.code_hash(__name__)}
    header = replace(
        one,
        id=run_id(f"{one.arm}.from-base", hashes),
        arm=f"{one.arm}.from-base",
        probe=(one.probe or {}) | {"reference": base, "beside": reference},
        modules=[__name__],
        hashes=hashes,
    )
    return Looked(header, [*_angles(vectors, base, reference)], looked.panel)


def _angles(vectors: Gram, base: str, other: str) -> Iterator[Row]:
    """Lengths, angles and what is kept, of the first change beside the second."""
    whole = vectors.norm(0)
    for part, n in vectors.sizes.items():
        length = vectors.norm(0, part)
        size = vectors.origin[part]
        numbers = {
            "norm": length,
            "relative_norm": length / size if size else 0.0,
            "share": (length / whole) ** 2 if whole else 0.0,
            "angle": vectors.angle(0, 1, part),
            "kept": vectors.kept(1, 0, part),
            "by_chance": vectors.by_chance(part),
        }
        for measure, value in numbers.items():
            if value is not None:
                yield WeightChange(
                    stage="defence",
                    step=0,
                    reference=base,
                    beside=other,
                    part=part,
                    measure=measure,  # type: ignore[arg-type]
                    value=value,
                    n=n,
                )


def _say(runs: Sequence[Looked], console: Console) -> None:
    """How many texts were read, and the numbers of all weights together, which need no figure."""
    console.print(f"prompts: {prompts_read(runs[0].header.probe or {})}", highlight=False)
    for row in (row for run in runs for row in run.rows):
        if isinstance(row, WeightChange) and row.part == WHOLE and row.measure != "share":
            label = weights_label(row.measure, row.reference, row.beside)
            console.print(f"{label}: {row.value:.3g}", markup=False, highlight=False)
