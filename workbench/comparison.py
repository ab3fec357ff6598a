"""Two published checkpoints side by side, without training: rows of several probes, one report.

Checkpoints of different sizes can be compared by what they say, not weight by weight: a probe that
they do not suit is left out, and console and report say which and why.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from workbench.comparison_report import write_report
from workbench.data import tokenizer_digest
from workbench.domains import Split
from workbench.errors import InvalidValueError
from workbench.models import tokenizer_of
from workbench.probes import PROBES
from workbench.probing import Looked, look
from workbench.rows import Row, WeightChange
from workbench.store import Store
from workbench.task_vectors import WHOLE, Gram, gram
from workbench.tokens import require_same_tokens

COMPARED = ("vocabulary", "drift", "similarity", "cosine", "weights")
"""The probes of a comparison: of what is said, of hidden states, of weights."""
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
    prompts: int = 32,
    template: str | None = None,
    probes: tuple[str, ...] = COMPARED,
) -> Path:
    """Compare a checkpoint with another one; return the report's file.

    Probes that refuse this pair are left out, with their reasons.

    Args:
        model: the checkpoint, as in `models.load`.
        reference: what it is compared with.
        out: a store: it gets a run folder with the rows, and the report.
        console: where progress goes.
        base: a third checkpoint from which both come: gives the angle between what each added.
        data: `builtin`, `lab`, a folder with one file a stream, or one file, which is read whole.
        split: whose questions are read, but of one file.
        prompts: of each kind.
        template: chat template for both; None for the model's own.
        probes: names of the probes.

    Raises:
        InvalidValueError: checkpoints that cannot be compared, or not by any of the probes; the
            message says why.
    """
    one = tokenizer_of(model, template)
    own = template or one.chat_template
    require_same_tokens(one, tokenizer_of(reference, own), model, reference)  # before any weights
    vectors = None if base is None else gram(base, [model, reference])
    left_out: dict[str, InvalidValueError] = {}
    chosen = {name: PROBES[name]() for name in probes if base is None or name != "weights"}

    @contextmanager
    def leave_out(name: str) -> Iterator[None]:
        try:
            yield
        except InvalidValueError as why:
            left_out[name] = why

    console.print(f"comparing {model} with {reference} on {data}", highlight=False)
    looked = look(
        "compare", chosen, model, reference, data, split=split, prompts=prompts, template=template,
        whole=Path(data).is_file(), leave_out=leave_out, base=base or "",
        digest=tokenizer_digest(one),
    )  # fmt: skip
    if vectors is not None and base is not None:
        looked.rows.extend(_angles(vectors, base, reference))
    if not looked.rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InvalidValueError(
            f"nothing was measured: none of {', '.join(probes)} gave a row. {why}".rstrip()
        )
    for name, reason in left_out.items():
        console.print(f"left out: {name}. {reason}", markup=False, highlight=False)
    looked = _noted(looked, left_out)
    looked.keep(out, console)
    report = write_report(Store(out), looked.header.id, model, reference, out / REPORT)
    _say(looked, console)
    console.print(f"report: {report}\npages: python -m app {out}", highlight=False)
    return report


def _noted(looked: Looked, left_out: Mapping[str, Exception]) -> Looked:
    """The header says what was left out, so that the report does."""
    reasons = {name: str(why) for name, why in left_out.items()}
    about = (looked.header.probe or {}) | {"left_out": reasons}
    return replace(looked, header=replace(looked.header, probe=about))


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


def _say(looked: Looked, console: Console) -> None:
    """The numbers of all weights together, which need no figure."""
    for row in looked.rows:
        if isinstance(row, WeightChange) and row.part == WHOLE and row.measure != "share":
            console.print(f"weights, {row.measure.replace('_', ' ')}: {row.value:.3g}",
                          highlight=False)  # fmt: skip
