"""Probes that learn: a fitter, and the frozen, callable reader that it leaves.

`Ridge` is the fast default; `Sklearn` takes any scikit-learn classifier instead (and, given
RidgeClassifierCV, is what `Ridge` is tested against).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from sklearn.base import is_classifier
from torch import Tensor

from workbench.errors import InvalidValueError
from workbench.probes import _ridge

ALPHAS = tuple(10.0**k for k in range(-3, 4))
"""Regularisations that ridge chooses from."""
Split = tuple[Int[Tensor, " _"], Int[Tensor, " _"]]
"""Which examples to learn from, and which to judge."""


class Reader(ABC):
    """A classifier of every layer, as it was learnt. It does not change any more."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "layer n d_model"]) -> Float[Tensor, "layer n"]:
        """Decision values: above 0 for hazardous."""


class Fitter(ABC):
    """A way to learn one classifier a layer."""

    @abstractmethod
    def fit(self, x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, " n"]) -> Reader:
        """Learn every layer's classifier.

        Raises:
            InvalidValueError: one class only, or states that are not finite.
        """

    def fit_each(
        self, x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, "set n"]
    ) -> Sequence[Reader]:
        """As `fit`, for sets of labels of the same states."""
        return [self.fit(x, one) for one in labels]

    def held_out(
        self,
        x: Float[Tensor, "layer n d_model"],
        labels: Bool[Tensor, "set n"],
        splits: Sequence[Split],
    ) -> list[Float[Tensor, "set layer _"]]:
        """Decision values of each split's test examples, learnt from its training examples alone.

        Args:
            x: the states of all examples.
            labels: sets of labels to learn, e.g. the true ones and shuffled ones.
            splits: which examples are learnt from and which judged.
        """
        return [
            torch.stack([self.fit(x[:, train], one[train])(x[:, test]) for one in labels])
            for train, test in splits
        ]


@dataclass(frozen=True, eq=False)
class LinearReader(Reader):
    """A weight vector and a bias a layer."""

    weights: Float[Tensor, "layer d_model"]
    bias: Float[Tensor, " layer"]

    def __call__(self, x: Float[Tensor, "layer n d_model"]) -> Float[Tensor, "layer n"]:
        """⟨w, x⟩ + b."""
        projected = [one.double() @ w for one, w in zip(x, self.weights, strict=True)]
        return torch.stack(projected) + self.bias[:, None]


@dataclass(frozen=True)
class Ridge(Fitter):
    """Ridge classifier, α by exact leave-one-out: scikit-learn's RidgeClassifierCV, all at once."""

    alphas: tuple[float, ...] = ALPHAS

    def fit(self, x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, " n"]) -> LinearReader:
        """As `Fitter.fit`."""
        return self.fit_each(x, labels[None])[0]

    def fit_each(
        self, x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, "set n"]
    ) -> list[LinearReader]:
        """As `Fitter.fit_each`; the sets share one decomposition."""
        require_learnable(x, labels)
        solution = _ridge.solve(_ridge.gram(x), labels, self.alphas)
        return [LinearReader(*one) for one in zip(*_ridge.direction(x, solution), strict=True)]

    def held_out(
        self,
        x: Float[Tensor, "layer n d_model"],
        labels: Bool[Tensor, "set n"],
        splits: Sequence[Split],
    ) -> list[Float[Tensor, "set layer _"]]:
        """As `Fitter.held_out`; splits share one Gram matrix, label sets one decomposition."""
        whole, found = _ridge.gram(x), []
        for train, test in splits:
            require_learnable(x[:, train], labels[:, train])
            inner = whole[:, train][:, :, train]
            solution = _ridge.solve(inner, labels[:, train], self.alphas)
            found.append(_ridge.decide(whole[:, test][:, :, train], inner, solution))
        return found


@dataclass(frozen=True)
class Sklearn(Fitter):
    """Any scikit-learn classifier: one a layer, made anew for each fit."""

    make: Callable[[], Any]
    """Gives an unfitted classifier, e.g. `lambda: SVC(kernel="linear")`."""

    def __post_init__(self) -> None:
        made = self.make()
        scored = hasattr(made, "decision_function") or hasattr(made, "predict_proba")
        if not scored or not is_classifier(made):
            raise InvalidValueError(
                f"{type(made).__name__} cannot be a probe: it must be a scikit-learn classifier "
                "with decision_function or predict_proba, so that its answers can be ranked."
            )

    def fit(self, x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, " n"]) -> Reader:
        """As `Fitter.fit`."""
        require_learnable(x, labels[None])
        y = labels.numpy()
        return SklearnReader(tuple(self.make().fit(one.double().numpy(), y) for one in x))


@dataclass(frozen=True, eq=False)
class SklearnReader(Reader):
    """Fitted scikit-learn classifiers, one a layer."""

    fitted: tuple[Any, ...]

    def __call__(self, x: Float[Tensor, "layer n d_model"]) -> Float[Tensor, "layer n"]:
        """Decision values; of classifiers that have none, P(hazardous) − ½."""
        return torch.stack(
            [_decision(f, one) for f, one in zip(self.fitted, x.double(), strict=True)]
        )


def _decision(fitted: Any, x: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
    if hasattr(fitted, "decision_function"):
        return torch.as_tensor(fitted.decision_function(x.numpy()), dtype=torch.float64)
    return torch.as_tensor(fitted.predict_proba(x.numpy())[:, 1] - 0.5, dtype=torch.float64)


def require_learnable(x: Float[Tensor, "layer n d_model"], labels: Bool[Tensor, "set n"]) -> None:
    """Refuse examples that nothing can be learnt from.

    Raises:
        InvalidValueError: one class only, or states that are not finite.
    """
    if (labels.all(1) | ~labels.any(1)).any():
        raise InvalidValueError(
            f"a probe learns to tell hazardous from benign, but of {labels.shape[1]} examples all "
            "have one label. Give both kinds of prompt."
        )
    bad = [str(i) for i, one in enumerate(x) if not torch.isfinite(one).all()]
    if bad:
        raise InvalidValueError(
            f"states of layers {', '.join(bad[:8])} are not finite, so no probe can be fitted. "
            "The model's weights hold NaN, or it overflows in its dtype."
        )
