"""Linear probes: at which layers hazard can be read off the states, and whether it stays readable.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017
workshop, arXiv:1610.01644: how separable a property is at each layer. A probe can also learn what
the states do not hold, so beside each stands the same probe on shuffled labels (selectivity: Hewitt
& Liang, EMNLP 2019, arXiv:1909.03368).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, StateProbe
from workbench.probes._discrimination import accuracy, auroc, calibration_error
from workbench.probes._examples import Examples, Parts, prepared
from workbench.probes._fitters import ALPHAS, Fitter, Reader, Ridge, Sklearn
from workbench.probes._groups import available
from workbench.rows import Group, LinearProbes, Row
from workbench.states import StatesOf, read_sites

__all__ = ["LinearProbe", "Sklearn"]

Estimator = Literal["ridge", "logistic", "lda", "mean_difference"]
READ: tuple[Group, ...] = ("hazard", "benign", "framed")
Found = dict[str, Float[Tensor, " layer"]]
Judged = tuple[dict[str, Any], Found]


def _sklearn(name: str) -> Any:
    if name == "logistic":
        return LogisticRegression(max_iter=1000)
    if name == "lda":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return NearestCentroid()


@dataclass(frozen=True, kw_only=True)
class LinearProbe(StateProbe):
    """How well a linear classifier tells hazardous from benign prompts, layer by layer.

    Held-out AUROC, accuracy and calibration error of classifiers learnt from the checkpoint's own
    states; from the reference's, frozen, put on the checkpoint; from one part of the domain, put on
    another; and on framed hazards. Beside them AUROC after learning shuffled labels.

    For another scikit-learn classifier subclass and return `Sklearn(factory)` from `fitter`.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (LinearProbes,)

    positions: Literal["last_prompt", "mean_response"] = "last_prompt"
    """Which state of an example is read; answers differ in more than hazard, prompts less so."""
    estimator: Estimator = "ridge"
    """`ridge` (α by exact leave-one-out; fast), `logistic`, `lda` (shrunk) or `mean_difference`."""
    alphas: tuple[float, ...] = ALPHAS
    """Ridge's α, over states whose mean squared distance from their mean is 1 at each layer."""
    folds: int = 5
    """Parts that are held out in turn; 0 holds out one hazard and one benign prompt at a time."""
    shuffles: int = 20
    """How often labels are shuffled for the control; 0 for none."""
    examples: int = 96
    """Prompts of each kind, however many the panel shows: learning needs more than looking."""
    seed: int = 0
    """Of folds and shuffles."""

    def __post_init__(self) -> None:
        if self.positions not in ("last_prompt", "mean_response"):
            raise InvalidValueError(
                "a probe reads one state an example: positions 'last_prompt' or 'mean_response', "
                f"not {self.positions!r}."
            )
        if self.folds < 0 or self.folds == 1:
            raise InvalidValueError(
                f"folds must be 2 or more, or 0 for single pairs, not {self.folds}."
            )
        if self.shuffles < 0 or self.examples < 2:
            raise InvalidValueError("shuffles must be 0 or more, examples 2 or more.")

    def fitter(self) -> Fitter:
        """What learns."""
        if self.estimator == "ridge":
            return Ridge(self.alphas)
        return Sklearn(lambda: _sklearn(self.estimator))

    def groups(self, panel: Panel) -> tuple[Group, ...]:
        """Hazards, benign prompts and framed hazards, as far as the domain has them."""
        return available(panel, READ)

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Learn from the reference once, and judge every checkpoint as it comes."""
        if reference is None:
            raise ValueError("frozen probes need a reference")
        parts: Parts = {
            group: [q.domain for q in panel.questions(group, self.examples)]
            for group in self.groups(panel)
        }
        compare = self._against(self._read(reference, panel), parts)
        return lambda model, at: compare(self._read(model, panel), at)

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Learn from these states; which part of the domain they come from is not known."""
        return self._against(then, {})

    def _read(self, model: nn.Module, panel: Panel) -> StatesOf:
        return {
            (group, site): states
            for group in self.groups(panel)
            for site, states in read_sites(
                model, panel.batch(group, self.examples), self.sites, self.positions
            ).items()
        }

    def _against(self, then: StatesOf, parts: Parts) -> Callable[[StatesOf, At], list[Row]]:
        sets = [prepared(then, site, parts, self.folds, self.seed) for site in self.sites]
        frozen = [self._frozen(each.states(then), each) for each in sets]

        def compare(now: StatesOf, at: At) -> list[Row]:
            rows: list[Row] = []
            for each, readers in zip(sets, frozen, strict=True):
                for group in each.groups:
                    now[group, each.site].require_like(then[group, each.site])
                x = each.states(now)
                told = {
                    **vars(at),
                    "site": each.site,
                    "positions": self.positions,
                    "estimator": self.estimator,
                }
                rows += [
                    LinearProbes(**told, measure=measure, values=values.tolist(), **how)  # type: ignore[arg-type]
                    for how, found in self._judged(x, each, readers)
                    for measure, values in found.items()
                ]
            return rows

        return compare

    def _frozen(self, x: Float[Tensor, "layer n d_model"], each: Examples) -> list[Reader]:
        """One reader a fold, which never saw that fold."""
        return [self.fitter().fit(x[:, train], each.labels[train]) for train, _ in each.splits]

    def _judged(
        self, x: Float[Tensor, "layer n d_model"], each: Examples, frozen: list[Reader]
    ) -> Iterator[Judged]:
        """What is found, with what was learnt from and judged."""
        fitter, splits = self.fitter(), each.splits
        sets = torch.cat([each.labels[None], each.shuffled(self.shuffles, self.seed)])
        own, *shuffled = _joined(fitter.held_out(x, sets, splits), each)
        read = [f(x[:, test])[None] for f, (_, test) in zip(frozen, splits, strict=True)]
        (kept,) = _joined(read, each)
        main, labels, folds = slice(each.main), each.labels, each.folds
        for fitted, scores in (("checkpoint", own), ("reference", kept)):
            for tested, at in each.judged.items():
                told = {"fitted": fitted, "trained_on": "all", "tested_on": tested, "n": len(at)}
                found = _told_apart(scores[:, at], labels[at], folds[at])
                if fitted == "checkpoint" and tested == "all":
                    found["ece"] = calibration_error(scores[:, main], labels[main], folds[main])
                    found |= _control([s[:, main] for s in shuffled], sets[1:, main], each)
                yield told, found
        for first, other, (train, test) in each.transfers:
            (scores,) = fitter.held_out(x, labels[None], [(train, test)])[0]
            told = {"fitted": "checkpoint", "trained_on": first, "tested_on": other, "n": len(test)}
            yield told, _told_apart(scores, labels[test], torch.zeros_like(test))


def _joined(
    parts: Sequence[Float[Tensor, "set layer _"]], each: Examples
) -> Float[Tensor, "set layer n"]:
    """The scores of all splits, in the order of the examples."""
    order = torch.cat([test for _, test in each.splits])
    return torch.cat(list(parts), dim=2)[:, :, order.argsort()]


def _told_apart(
    scores: Float[Tensor, "layer n"], labels: Bool[Tensor, " n"], folds: Int[Tensor, " n"]
) -> Found:
    return {"auroc": auroc(scores, labels, folds), "accuracy": accuracy(scores, labels)}


def _control(
    scores: Sequence[Float[Tensor, "layer n"]], labels: Bool[Tensor, "set n"], each: Examples
) -> Found:
    """AUROC of shuffled labels: what chance gives with so many examples."""
    if not scores:
        return {}
    folds = each.folds[: each.main]
    chance = torch.stack([auroc(s, y, folds) for s, y in zip(scores, labels, strict=True)])
    return {
        "shuffled_auroc": chance.mean(0),
        "shuffled_low": chance.quantile(0.05, dim=0),
        "shuffled_high": chance.quantile(0.95, dim=0),
    }
