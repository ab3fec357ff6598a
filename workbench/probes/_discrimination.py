"""How well decision values tell two classes apart, and how honest probabilities from them are."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from workbench.errors import InvalidValueError

BINS = 10
"""Equal bins of probability for the calibration error."""
UNREGULARISED = 1e6


def auroc(
    scores: Float[Tensor, "layer n"], labels: Bool[Tensor, " n"], folds: Int[Tensor, " n"]
) -> Float[Tensor, " layer"]:
    """Share of (hazardous, benign) pairs of one fold of which the hazardous one scores higher.

    Pairs of two folds are left out: their scores come from different classifiers, whose intercepts
    follow the labels they were trained on, so that pooling them pushes chance below ½.

    Raises:
        InvalidValueError: no fold has both classes.
    """
    won, pairs = torch.zeros(len(scores), dtype=torch.float64), 0
    for fold in folds.unique():
        here = folds == fold
        high, low = scores[:, here & labels], scores[:, here & ~labels]
        gap = high[:, :, None] - low[:, None, :]
        won += ((gap > 0).double() + 0.5 * (gap == 0).double()).sum((1, 2))
        pairs += gap[0].numel()
    if not pairs:
        raise InvalidValueError("no fold has both hazardous and benign examples: use fewer folds.")
    return won / pairs


def accuracy(
    scores: Float[Tensor, "layer n"], labels: Bool[Tensor, " n"]
) -> Float[Tensor, " layer"]:
    """Share of examples on the right side of 0."""
    return ((scores > 0) == labels).double().mean(1)


def calibration_error(
    scores: Float[Tensor, "layer n"],
    labels: Bool[Tensor, " n"],
    folds: Int[Tensor, " n"],
) -> Float[Tensor, " layer"]:
    """Expected calibration error of probabilities made from held-out decision values.

    Σ_b (n_b / n) |share of hazards in bin b − mean probability in bin b| over equal bins (Guo et
    al., ICML 2017, arXiv:1706.04599). The probability of an example comes from Platt's sigmoid,
    fitted to the decision values of the other folds. Few examples a bin make it too large by
    chance: about 0.1 for 64 examples.
    """
    return torch.tensor(
        [_bins(_platt(one, labels, folds), labels.numpy()) for one in scores.numpy()]
    )


def _platt(scores: np.ndarray, labels: Tensor, folds: Tensor) -> np.ndarray:
    """P(hazardous) = σ(a s + b), a and b from the other folds, by Platt's softened targets (1999).

    A target t in between is an example of both classes, with weights t and 1 − t.
    """
    found = np.empty(len(scores))
    for fold in folds.unique():
        test = (folds == fold).numpy()
        s, y = scores[~test], labels.numpy()[~test]
        scale = np.abs(s).max() or 1.0
        target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
        sigmoid = LogisticRegression(C=UNREGULARISED).fit(
            np.tile(s / scale, 2)[:, None],
            np.repeat([1, 0], len(s)),
            np.concatenate([target, 1 - target]),
        )
        found[test] = sigmoid.predict_proba(scores[test, None] / scale)[:, 1]
    return found


def _bins(probability: np.ndarray, labels: np.ndarray) -> float:
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, probability - labels, BINS)
    return float(np.abs(gaps).sum() / len(labels))
