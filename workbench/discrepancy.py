"""How far two samples are from one distribution, without knowing either: kernel discrepancies.

Gretton, Borgwardt, Rasch, Schölkopf & Smola, "A kernel two-sample test", JMLR 13 (2012). The sum of
Gaussian kernels whose widths follow the data is the one of Long, Cao, Wang & Jordan, ICML 2015,
arXiv:1502.02791, as RepNoise's released code has it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InvalidValueError

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels, in units of the mean distance."""


def mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy, the biased estimate, in [0, 2 · kernels).

    mean k(x, x) + mean k(y, y) − 2 mean k(x, y) with k(d) = Σ_w exp(−d / (w · bandwidth)) of the
    squared distance d. The bandwidth is the mean of d over all pairs of different rows; no gradient
    flows through it. Computed in fp32 or wider, whatever autocast says. One row on each side gives
    a constant, 6.18628, whatever the rows are: give at least two.

    Raises:
        InvalidValueError: a sample without rows.
    """
    if not len(x) or not len(y):
        raise InvalidValueError(
            f"the discrepancy of samples of {len(x)} and {len(y)} rows is not defined; give each "
            "at least one row (two, for it to depend on them)."
        )
    distances = squared_distances(torch.cat([full_precision(x), full_precision(y)]))
    bandwidth = distances.detach().sum() / (len(distances) * (len(distances) - 1))
    bandwidth = bandwidth.clamp(min=1e-30)  # all rows alike: every distance is 0, and so is the MMD
    kernel = torch.stack([torch.exp(-distances / (w * bandwidth)) for w in WIDTHS]).sum(0)
    n = len(x)
    return (
        kernel[:n, :n].mean()
        + kernel[n:, n:].mean()
        - kernel[:n, n:].mean()
        - (kernel[n:, :n].mean())
    )


def squared_distances(z: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """‖z_i − z_j‖² for all pairs of rows, never negative, exactly zero on the diagonal.

    From one Gram matrix: memory for pairs times width is never taken. Distances do not change when
    all rows move alike, so the mean row is taken off first; what is left loses no digits.
    """
    with torch.autocast(z.device.type, enabled=False):
        centred = z - z.detach().mean(0)
        gram = centred @ centred.T
    gram = (gram + gram.T) / 2
    squares = gram.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * gram).clamp(min=0)


def full_precision(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """At least fp32; fp64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
