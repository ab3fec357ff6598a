"""Which tokens of an example a measurement speaks of. Padding never counts."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.data import Batch
from workbench.errors import InvalidValueError, UnknownNameError

Positions = Literal["last_prompt", "prompt", "response", "all", "mean_response"]
"""`last_prompt` is the last token before the response, `mean_response` the mean over its tokens."""


def kept_positions(batch: Batch, positions: Positions) -> Bool[Tensor, "batch pos"]:
    """Which tokens of a batch are kept.

    Raises:
        UnknownNameError: no such choice of positions.
        InvalidValueError: an example has no such token.
    """
    prompt = batch.attention_mask & ~batch.response_mask
    if positions == "last_prompt":
        after = prompt.flip(1).cumsum(1).flip(1)  # how many prompt tokens from here on
        keep = prompt & (after == 1)
    else:
        choices = {
            "prompt": prompt,
            "response": batch.response_mask,
            "mean_response": batch.response_mask,
            "all": batch.attention_mask,
        }
        if positions not in choices:
            raise UnknownNameError("choice of positions", positions, get_args(Positions))
        keep = choices[positions]
    empty = [name for name, row in zip(batch.examples, keep, strict=True) if not row.any()]
    if empty:
        raise InvalidValueError(
            f"positions={positions!r}, but these examples have no such token: {', '.join(empty)}."
        )
    return keep


def kept(
    x: Float[Tensor, "batch pos d_model"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "row d_model"]:
    """The kept tokens, example after example."""
    return x[keep]


def mean_kept(
    x: Float[Tensor, "batch pos d_model"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_model"]:
    """The mean over each example's kept tokens."""
    weights = keep / keep.sum(1, keepdim=True)
    return torch.einsum("bpd,bp->bd", x.float(), weights.float())
