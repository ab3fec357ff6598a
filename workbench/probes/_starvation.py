"""What groups of examples have in their common gradient, from inner products alone.

With group g of n_g among N examples, ḡ_g its mean gradient and ḡ the mean of all:

    share  s_g = (n_g / N) ⟨ḡ_g, ḡ⟩ / ‖ḡ‖²        Σ_g s_g = 1
    GSNR_g = ‖ḡ_g‖² / ((1 / n_g) Σ_{i in g} ‖g_i − ḡ_g‖²)

A share below zero means that a step which lowers the loss of all raises the group's. The ratio of
signal to noise is that of Liu, Jiang, Bai, Chen & Wang, ICLR 2020, arXiv:2001.07384, summed over
parameters before it is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.random_projection import GaussianRandomProjection
from torch import Tensor

from workbench.errors import InvalidValueError, ModelError

NOISE = 1e-12
"""A variance so small relative to the mean square is rounding, not noise of examples."""


@dataclass(frozen=True)
class Share:
    """One group's part in the mean gradient."""

    n: int
    share: float
    norm: float
    gsnr: float | None
    """None where the group's gradients do not vary, as with one example."""


def shares(gram: Float[Tensor, "example example"], labels: Sequence[str]) -> dict[str, Share]:
    """Each group's share, norm and ratio of signal to noise, in the order of their first example.

    Args:
        gram: inner products of the examples' gradients, fp64.
        labels: the group of each example.

    Raises:
        InvalidValueError: fewer than two groups, or as many labels as there are not examples.
        ModelError: the mean gradient is zero, or something is not finite.
    """
    groups, means = _means(gram, labels)
    counts = np.array([labels.count(group) for group in groups])
    weights = counts / counts.sum()
    inner = means @ weights
    whole = float(weights @ inner)
    if whole <= NOISE * float(gram.diagonal().mean()):
        raise ModelError(
            "the mean gradient of all examples is zero, so no group has a share of it. Either the "
            "model is at a stationary point of these texts, or no parameter that takes part in "
            "them requires gradients."
        )
    squares = gram.diagonal().numpy()
    found = {}
    for i, group in enumerate(groups):
        mean_square = float(np.mean([squares[j] for j, x in enumerate(labels) if x == group]))
        signal = max(float(means[i, i]), 0.0)
        noise = mean_square - signal
        found[group] = Share(
            n=int(counts[i]),
            share=float(weights[i] * inner[i] / whole),
            norm=signal**0.5,
            gsnr=signal / noise if noise > NOISE * mean_square else None,
        )
    return found


def cosines(
    gram: Float[Tensor, "example example"], labels: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Cosine between the mean gradients of each two groups; none where one of them is zero.

    Raises:
        InvalidValueError: as `shares`.
        ModelError: something is not finite.
    """
    groups, means = _means(gram, labels)
    norms = np.sqrt(np.clip(means.diagonal(), 0, None))
    return {
        (groups[i], groups[j]): float(np.clip(means[i, j] / (norms[i] * norms[j]), -1, 1))
        for i in range(len(groups))
        for j in range(i)
        if norms[i] > 0 and norms[j] > 0
    }


def _means(gram: Tensor, labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The groups, and the inner products of their mean gradients."""
    groups = list(dict.fromkeys(labels))
    if len(labels) != len(gram):
        raise InvalidValueError(f"{len(gram)} examples need as many labels, not {len(labels)}.")
    if len(groups) < 2:
        raise InvalidValueError(
            f"shares are of groups beside one another; all {len(labels)} examples belong to "
            f"{groups[0]!r}. Give texts of a second group." if groups else "there are no examples."
        )  # fmt: skip
    if not torch.isfinite(gram).all():
        raise ModelError("the gradients are not finite: the weights hold NaN, or overflow.")
    member = np.array([[label == group for label in labels] for group in groups], dtype=float)
    member /= member.sum(1, keepdims=True)
    return groups, member @ gram.double().numpy() @ member.T


def coordinates(
    gram: Float[Tensor, "example example"], dimensions: int, seed: int
) -> Float[np.ndarray, "example dimension"]:
    """Random projections of the examples' unit gradients (Johnson & Lindenstrauss 1984).

    A Gaussian projection does not depend on the basis, so projecting coordinates in which all
    distances are exact is projecting the gradients themselves, without having them.
    """
    norms = gram.diagonal().clamp_min(0).sqrt()
    unit = gram / torch.outer(norms, norms).clamp_min(torch.finfo(gram.dtype).tiny)
    values, vectors = np.linalg.eigh(unit.double().numpy())
    exact = vectors * np.sqrt(values.clip(min=0))
    if dimensions >= len(exact):
        return exact
    return GaussianRandomProjection(dimensions, random_state=seed).fit_transform(exact)


def clusters(
    gram: Float[Tensor, "example example"], k: int, dimensions: int, seed: int
) -> list[str]:
    """Groups of examples whose gradients point alike: `cluster 1` is the largest.

    Raises:
        InvalidValueError: more clusters than examples, or fewer than two.
    """
    if not 2 <= k <= len(gram):
        raise InvalidValueError(
            f"{len(gram)} examples can form 2 to {len(gram)} clusters, not {k}."
        )
    points = coordinates(gram, dimensions, seed)
    found = KMeans(k, n_init=10, random_state=seed).fit(points).labels_
    by_size = sorted(
        set(found), key=lambda c: (-int((found == c).sum()), int(np.argmax(found == c)))
    )
    return [f"cluster {by_size.index(c) + 1}" for c in found]
