"""Values by response position, summed up over the prompts whose response gets there."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def by_position(values: Sequence[Float[Tensor, "..."]]) -> dict[str, Any]:
    """Mean, quartiles and number of the prompts that reach each position.

    Args:
        values: one vector a prompt, as long as its response.
    """
    lines = [v.double() for v in values]
    grid = pad_sequence(lines, batch_first=True, padding_value=float("nan"))
    return spread(grid) | {"prompts": grid.isfinite().sum(0).double().tolist()}


def spread(grid: Float[Tensor, "prompt place"]) -> dict[str, Any]:
    """Mean and quartiles over prompts; NaN is a prompt that does not count."""
    low, high = grid.nanquantile(torch.tensor([0.25, 0.75], dtype=grid.dtype), dim=0)
    return {"values": grid.nanmean(0).tolist(), "low": low.tolist(), "high": high.tolist()}
