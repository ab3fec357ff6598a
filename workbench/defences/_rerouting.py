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


def similarity(live: Rows, goal: Rows) -> Float[Tensor, ""]:
    """L_s: mean over sites and tokens of the cosine with the reference, where it is positive."""
    cosines = [cosine_similarity(live[site], goal[site], dim=-1, eps=TINY) for site in goal]
    return torch.stack(cosines).relu().mean()


def drift(live: Rows, held: Rows, counted: int, *, relative: bool = False) -> Float[Tensor, ""]:
    """L_r: distance from the reference (L2 over channels), over sites and `counted` tokens.

    The gradient of the norm is zero where there is no distance.
    """
    gaps = {site: vector_norm(live[site] - held[site], dim=-1) for site in held}
    if relative:
        gaps = {s: gap / vector_norm(held[s], dim=-1).clamp(TINY) for s, gap in gaps.items()}
    return torch.stack([*gaps.values()]).sum() / (len(gaps) * counted)


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
