"""Ridge classifiers for all layers at once, from one Gram matrix a layer.

A ridge classifier regresses labels ±1 on states, w = argmin ‖X_c w − y_c‖² + α‖w‖², and answers by
the sign. There are far fewer examples than dimensions, so everything is done with the Gram matrix
K = X Xᵀ: with K_c = Q Λ Qᵀ centred on the training examples, the residuals of every α are
Q diag(α / (Λ + α)) Qᵀ y, and the exact leave-one-out errors e_i / (1 − H_ii) (Allen, Technometrics
16 (1974), PRESS) need the diagonal of the same product. One decomposition therefore gives all α,
all leave-one-out errors and all label vectors; subsets of examples (folds) reuse K.

The result is scikit-learn's RidgeClassifierCV with its default, generalised leave-one-out, to
rounding: the intercept is free, labels are ±1, and of equally good α the first is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class Solution:
    """Dual coefficients of every layer and label vector, each with the best α."""

    errors: Float[Tensor, "alpha layer set train"]
    """Exact leave-one-out errors, in units of the labels ±1."""
    best: Int[Tensor, "layer set"]
    """Index of the α with the least mean squared error."""
    dual: Float[Tensor, "layer set train"]
    """c with w = X_cᵀ c."""
    bias: Float[Tensor, " set"]
    """Mean label: the decision at the mean of the training states."""


def gram(x: Float[Tensor, "layer n d_model"]) -> Float[Tensor, "layer n n"]:
    """X Xᵀ of every layer about the mean of all examples, in fp64; one layer at a time.

    What is common to all examples changes no solution, and would cost digits: in a residual stream
    it can be a hundred times what tells examples apart.
    """
    centred = (layer.double() - layer.double().mean(0) for layer in x)
    return torch.stack([layer @ layer.T for layer in centred])


def solve(
    inner: Float[Tensor, "layer train train"],
    labels: Bool[Tensor, "set train"],
    alphas: Sequence[float],
) -> Solution:
    """Fit every layer, every label vector and every α.

    Args:
        inner: the Gram matrix of the training examples, not centred.
        labels: sets of labels, e.g. the true ones and shuffled ones.
        alphas: regularisations to choose from, as in scikit-learn.

    Raises:
        InvalidValueError: no α, or one that is not positive.
    """
    if not alphas or min(alphas) <= 0:
        raise InvalidValueError(f"alphas must be one or more positive numbers, not {alphas}.")
    n = inner.shape[-1]
    centred = inner - inner.mean(1, keepdim=True)
    centred = centred - centred.mean(2, keepdim=True)
    # A large eigenvalue for the constant vector: it comes last and is left out, which is what a
    # free intercept does.
    shift = centred.diagonal(dim1=1, dim2=2).sum(1) + 1
    values, vectors = torch.linalg.eigh(centred + (shift / n)[:, None, None])
    values, vectors = values[:, :-1].clamp_min(0), vectors[:, :, :-1]
    y = 2.0 * labels.double() - 1
    bias = y.mean(1)
    turned = torch.einsum("lnk,sn->lks", vectors, y)
    alpha = torch.tensor(list(alphas), dtype=torch.float64)[:, None, None]
    shrink = alpha / (values + alpha)
    residuals = vectors @ (shrink[..., None] * turned)
    slack = torch.einsum("lnk,alk->aln", vectors.square(), shrink)  # 1 - H_ii
    errors = (residuals / slack[..., None]).mT
    best = errors.square().mean(-1).argmin(0)
    at = best[None, :, :, None].expand(1, *errors.shape[1:])
    dual = residuals.mT.gather(0, at)[0] / alpha.flatten()[best][..., None]
    return Solution(errors, best, dual, bias)


def decide(
    cross: Float[Tensor, "layer test train"],
    inner: Float[Tensor, "layer train train"],
    solution: Solution,
) -> Float[Tensor, "set layer test"]:
    """Decision values of other examples, by their inner products with the training examples."""
    # The coefficients sum to zero, so of the centring only the mean of the kernel's rows remains.
    centre = torch.einsum("lmn,lsn->ls", inner, solution.dual) / inner.shape[-1]
    raw = torch.einsum("ltn,lsn->slt", cross, solution.dual)
    return raw - centre.T[..., None] + solution.bias[:, None, None]


def direction(
    x: Float[Tensor, "layer train d_model"], solution: Solution
) -> tuple[Float[Tensor, "set layer d_model"], Float[Tensor, "set layer"]]:
    """Weights and bias of every label vector, for states that were never seen."""
    each = [c @ one.double() for c, one in zip(solution.dual, x, strict=True)]
    weights = torch.stack(each, dim=1)
    means = torch.stack([one.double().mean(0) for one in x])
    return weights, solution.bias[:, None] - (weights * means).sum(-1)
