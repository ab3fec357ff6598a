"""The two terms of circuit breakers, and the direction that breaks their tie; all on fp32 rows."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import cosine_similarity

Rows = Mapping[str, Tensor]
"""Site -> activations `[row, d_model]` of the real tokens."""
TINY = 1e-8
"""Norms below this count as this, so that a token of zeros has cosine 0 and no gradient."""
ROUNDING = 32 * torch.finfo(torch.float32).eps
"""A gap below this share of the activation's norm is none. The same tokens in a batch of another
shape gave gaps of up to 7 units in the last place on random models of 2 to 24 blocks, and of 31 on
one whose weights are drawn so wide that errors grow from block to block."""


def similarity(live: Rows, goal: Rows) -> Float[Tensor, ""]:
    """L_s: mean over sites and tokens of the cosine with the reference, where it is positive."""
    cosines = [cosine_similarity(live[site], goal[site], dim=-1, eps=TINY) for site in goal]
    return torch.stack(cosines).relu().mean()


def drift(live: Rows, held: Rows, counted: int, *, relative: bool = False) -> Float[Tensor, ""]:
    """L_r: distance from the reference (L2 over channels), over sites and `counted` tokens.

    The gradient of the norm is zero where there is no distance. Rounding is no distance either: the
    norm's gradient has full length however small the gap, so it would be pulled at with full force.
    What is not finite, in either, stays so: training has to see it and stop.
    """
    gaps = []
    for site, at in held.items():
        gap, size = vector_norm(live[site] - at, dim=-1), vector_norm(at, dim=-1)
        gap = gap.masked_fill((gap <= ROUNDING * size) & size.isfinite(), 0.0)
        gaps.append(gap / size.clamp(TINY) if relative else gap)
    return torch.stack(gaps).sum() / (len(gaps) * counted)


def turned(held: Rows, towards: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference turned towards a direction `[d_model]` of each site, where there is one."""
    return {
        site: x + vector_norm(x, dim=-1, keepdim=True) * towards[site].to(x)
        if site in towards
        else x
        for site, x in held.items()
    }


def directions(
    sites: tuple[str, ...], width: int, size: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """A random direction of length `size` for each site, uniform over all directions."""
    drawn = {site: torch.randn(width, generator=generator) for site in sites}
    return {site: size * x / vector_norm(x) for site, x in drawn.items()}
