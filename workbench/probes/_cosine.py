"""Cosine and norms of two checkpoints' hidden states at the same tokens, and their summaries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.states import States

STATISTICS = {"mean": None, "q05": 0.05, "q25": 0.25, "q75": 0.75, "q95": 0.95}
"""Name to quantile over prompts; None is the mean."""


@dataclass(frozen=True, eq=False)
class Field:
    """One quantity at every layer and token of some examples."""

    examples: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    """How many of each example's tokens come before its response."""
    values: tuple[Float[np.ndarray, "layer _"], ...]
    """One example each, layers by tokens; without padding."""

    def responses(self) -> Float[np.ndarray, "example layer response_position"]:
        """The response tokens alone, NaN where a response has ended."""
        parts = [x[:, n:] for x, n in zip(self.values, self.prompt_tokens, strict=True)]
        longest = max(part.shape[1] for part in parts)
        whole = np.full((len(parts), len(parts[0]), longest), np.nan)
        for row, part in zip(whole, parts, strict=True):
            row[:, : part.shape[1]] = part
        return whole


def compared(now: States, then: States, prompt_tokens: Sequence[int]) -> dict[str, Field]:
    """`cosine` = ⟨h_ref, h⟩ / (‖h_ref‖ ‖h‖), `norm` = ‖h‖ and `norm_reference` = ‖h_ref‖.

    In fp64, so that the cosine of a state with itself, or with a multiple of itself, is 1. A state
    that did not move at all has exactly 1.

    Raises:
        InvalidValueError: states of other tokens or another place.
    """
    now.require_like(then)
    by_layer = [_by_token(x, y) for x, y in zip(now.values, then.values, strict=True)]
    ends = np.cumsum(now.lengths)[:-1]
    fields = {}
    for i, name in enumerate(("cosine", "norm", "norm_reference")):
        whole = torch.stack([values[i] for values in by_layer]).numpy()
        parts = tuple(np.split(whole, ends, axis=1))
        fields[name] = Field(now.examples, tuple(prompt_tokens), parts)
    return fields


def _by_token(
    now: Float[Tensor, "row d_model"], then: Float[Tensor, "row d_model"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
    x, y = now.double(), then.double()
    norms = x.norm(dim=-1), y.norm(dim=-1)
    tiny = torch.finfo(x.dtype).tiny
    unit = [z / norm.clamp_min(tiny)[:, None] for z, norm in zip((x, y), norms, strict=True)]
    cosine = (unit[0] * unit[1]).sum(-1).clamp(-1, 1)
    return torch.where((now == then).all(-1), 1.0, cosine), *norms


def over_prompts(
    responses: Float[np.ndarray, "example layer response_position"], least: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(statistic, prompts that reach each position, its values [layer, position]).

    Args:
        responses: as `Field.responses` gives them.
        least: share of the examples that must reach a position for it to be kept.
    """
    reach = (~np.isnan(responses[:, 0])).sum(0)
    kept = responses[:, :, reach >= least * len(responses)]
    reach = reach[: kept.shape[-1]].astype(float)
    for name, quantile in STATISTICS.items():
        values = np.nanmean(kept, 0) if quantile is None else np.nanquantile(kept, quantile, 0)
        yield name, reach, values
