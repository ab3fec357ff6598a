"""Linear probes: at which layers hazard can be read off the states, and whether it stays readable.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017
workshop, arXiv:1610.01644: how separable a property is at each layer. A probe can also learn what
the states do not hold, so beside each stands the same probe on shuffled labels (selectivity: Hewitt
& Liang, EMNLP 2019, arXiv:1909.03368).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn

from workbench.errors import InvalidValueError, UnknownNameError
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, StateProbe
from workbench.probes._discrimination import accuracy, auroc, calibration_error
from workbench.probes._examples import Examples, Texts, prepared
from workbench.probes._fitters import ALPHAS, Fitter, Reader, Ridge, Sklearn
from workbench.probes._groups import available
from workbench.rows import Group, LinearProbes, Row
from workbench.states import StatesOf, read_sites

__all__ = ["LinearProbe", "Sklearn"]

NAMED: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=1000),
    "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "mean_difference": NearestCentroid,
}
"""scikit-learn's classifiers under names of ours."""
READ: tuple[Group, ...] = ("hazard", "benign", "framed")
Found = dict[str, Float[Tensor, " layer"]]
Judged = tuple[dict[str, Any], Found]
Frozen = list[Sequence[Reader]]
"""Of every fold one reader a set of labels, which never saw that fold."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe(StateProbe):
    """How well a linear classifier tells hazardous from benign prompts, layer by layer.

    Held-out AUROC, accuracy and calibration error of classifiers learnt from the checkpoint's own
    states; from the reference's, frozen, put on the checkpoint; from one part of the domain, put on
    another; and on framed hazards. Beside each the AUROC that shuffled labels give on the same way.

    For a classifier that needs arguments, subclass and return `Sklearn(factory)` from `fitter`.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (LinearProbes,)

    positions: Literal["last_prompt", "mean_response"] = "last_prompt"
    """Which state of an example is read; answers differ in more than hazard, prompts less so."""
    estimator: str = "ridge"
    """`ridge` (α by exact leave-one-out; fast), `logistic`, `lda` (shrunk) or `mean_difference`; or
    any other classifier of scikit-learn's kind as module:Class, e.g. `sklearn.svm:LinearSVC`."""
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
        super().__post_init__()
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
        self.fitter()

    def fitter(self) -> Fitter:
        """What learns.

        Raises:
            UnknownNameError: no estimator of that name.
            InvalidValueError: module:Class is no classifier, or needs arguments.
        """
        if self.estimator == "ridge":
            return Ridge(self.alphas)
        return Sklearn(NAMED.get(self.estimator) or _imported(self.estimator))

    def groups(self, panel: Panel) -> tuple[Group, ...]:
        """Hazards, benign prompts and framed hazards, as far as the domain has them."""
        return available(panel, READ)

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Learn from the reference once, and judge every checkpoint as it comes."""
        if reference is None:
            raise ValueError("frozen probes need a reference")
        texts: Texts = {g: panel.questions(g, self.examples) for g in self.groups(panel)}
        compare = self._against(self._read(reference, panel), texts)
        return lambda model, at: compare(self._read(model, panel), at)

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Learn from states of texts that are not known.

        Equal states are held out together, and there is no transfer between parts of the domain.
        """
        return self._against(then, {})

    def _read(self, model: nn.Module, panel: Panel) -> StatesOf:
        return {
            (group, site): states
            for group in self.groups(panel)
            for site, states in read_sites(
                model, panel.batch(group, self.examples), self.sites, self.positions
            ).items()
        }

    def _against(self, then: StatesOf, texts: Texts) -> Callable[[StatesOf, At], list[Row]]:
        sets = [prepared(then, site, texts, self.folds, self.seed) for site in self.sites]
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

    def _frozen(self, x: Float[Tensor, "layer n d_model"], each: Examples) -> Frozen:
        sets = each.labelled(self.shuffles, self.seed, each.blocks)
        return [self.fitter().fit_each(x[:, train], sets[:, train]) for train, _ in each.splits]

    def _judged(
        self, x: Float[Tensor, "layer n d_model"], each: Examples, frozen: Frozen
    ) -> Iterator[Judged]:
        """What is found, with what was learnt from and judged."""
        fitter, splits, folds = self.fitter(), each.splits, each.folds
        sets = each.labelled(self.shuffles, self.seed, each.blocks)
        own = _joined(fitter.held_out(x, sets, splits), each)
        kept = _joined(
            [
                torch.stack([read(x[:, test]) for read in readers])
                for readers, (_, test) in zip(frozen, splits, strict=True)
            ],
            each,
        )
        for fitted, scores in (("checkpoint", own), ("reference", kept)):
            for tested, at in each.judged.items():
                told = {"fitted": fitted, "trained_on": "all", "tested_on": tested, "n": len(at)}
                found = _told_apart(scores[:, :, at], sets[:, at], folds[at])
                if fitted == "checkpoint" and tested == "all":
                    found["ece"] = calibration_error(own[0][:, at], each.labels[at], folds[at])
                yield told, found
        for one, other, (train, test) in each.transfers:
            sets = each.labelled(self.shuffles, self.seed, [train, test])
            (scores,) = fitter.held_out(x, sets, [(train, test)])
            told = {"fitted": "checkpoint", "trained_on": one, "tested_on": other, "n": len(test)}
            yield told, _told_apart(scores, sets[:, test], torch.zeros_like(test))


def _imported(name: str) -> Callable[[], Any]:
    """What makes the classifier that `module:Class` names."""
    module, colon, kind = name.partition(":")
    if not colon:
        hint = "Any other classifier: module:Class, e.g. sklearn.svm:LinearSVC."
        raise UnknownNameError("estimator", name, ("ridge", *NAMED), hint)
    problem = "cannot be imported"
    with suppress(ImportError, AttributeError, ValueError, TypeError):
        made: Any = getattr(import_module(module), kind)
        problem = "is no class with a method fit"
        if isinstance(made, type) and hasattr(made, "fit"):  # to call others could do anything
            problem = "cannot be made without arguments"
            made()
            return made
    raise InvalidValueError(
        f"estimator {name!r} {problem}. Give module:Class of a scikit-learn classifier, e.g. "
        "sklearn.svm:LinearSVC; for one with arguments subclass LinearProbe (see its page)."
    )


def _joined(
    parts: Sequence[Float[Tensor, "set layer _"]], each: Examples
) -> Float[Tensor, "set layer n"]:
    """The scores of all splits, in the order of the examples."""
    order = torch.cat([test for _, test in each.splits])
    return torch.cat(list(parts), dim=2)[:, :, order.argsort()]


def _told_apart(
    scores: Float[Tensor, "set layer n"], labels: Bool[Tensor, "set n"], folds: Int[Tensor, " n"]
) -> Found:
    """Measures of the true labels, and AUROC of shuffled ones: what chance gives this way."""
    rocs = torch.stack([auroc(s, y, folds) for s, y in zip(scores, labels, strict=True)])
    found = {"auroc": rocs[0], "accuracy": accuracy(scores[0], labels[0])}
    if len(chance := rocs[1:]) == 0:
        return found
    return found | {
        "shuffled_auroc": chance.mean(0),
        "shuffled_low": chance.quantile(0.05, dim=0),
        "shuffled_high": chance.quantile(0.95, dim=0),
    }
