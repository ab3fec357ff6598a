"""Which tokens of an example a measurement speaks of. Padding never counts."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.data import Batch
from workbench.errors import InvalidValueError, UnknownNameError

Named = Literal["last_prompt", "prompt", "response", "all", "mean_response"]
"""`last_prompt` is the last token before the response, `mean_response` the mean over its tokens."""
Positions = Named | str
"""A name, or `response:5`: the first five tokens of the response, or all if there are fewer."""
FIRST = re.compile(r"response:([1-9]\d*)")
CUSTOM = "mask:"
"""How a recording's manifest names positions that a function of the user's chose."""


@dataclass(frozen=True)
class Mask:
    """Positions chosen by a function of the batch, under a name to know them by."""

    name: str
    keep: Callable[[Batch], Bool[Tensor, "batch pos"]]
    """True where a token is kept; what it says of padding does not count."""

    def __str__(self) -> str:
        return CUSTOM + self.name


def kept_positions(batch: Batch, positions: Positions | Mask) -> Bool[Tensor, "batch pos"]:
    """Which tokens of a batch are kept.

    Raises:
        UnknownNameError: no such choice of positions.
        InvalidValueError: an example has no such token, or a mask is not one of this batch.
    """
    keep = _custom(batch, positions) if isinstance(positions, Mask) else _named(batch, positions)
    empty = [name for name, row in zip(batch.examples, keep, strict=True) if not row.any()]
    if empty:
        raise InvalidValueError(
            f"positions={str(positions)!r}, but these examples have no such token: "
            f"{', '.join(empty)}."
        )
    return keep


def _named(batch: Batch, positions: str) -> Bool[Tensor, "batch pos"]:
    prompt, response = batch.attention_mask & ~batch.response_mask, batch.response_mask
    if positions == "last_prompt":
        after = prompt.flip(1).cumsum(1).flip(1)  # how many prompt tokens from here on
        return prompt & (after == 1)
    if first := FIRST.fullmatch(positions):
        return response & (response.cumsum(1) <= int(first[1]))
    choices = {
        "prompt": prompt,
        "response": response,
        "mean_response": response,
        "all": batch.attention_mask,
    }
    if positions not in choices:
        known = (*get_args(Named), "response:5")
        hint = "With a number after the colon: so many first tokens of the response."
        raise UnknownNameError("choice of positions", positions, known, hint)
    return choices[positions]


def _custom(batch: Batch, mask: Mask) -> Bool[Tensor, "batch pos"]:
    keep = mask.keep(batch)
    shape = tuple(batch.attention_mask.shape)
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or tuple(keep.shape) != shape:
        found = f"{keep.dtype} {tuple(keep.shape)}" if isinstance(keep, Tensor) else type(keep)
        raise InvalidValueError(
            f"the mask {mask.name!r} gave {found}; expected booleans of shape {shape}, one a token."
        )
    return keep.to(batch.attention_mask.device) & batch.attention_mask


def rows_kept(keep: Bool[Tensor, "batch pos"], positions: Positions | Mask) -> list[int]:
    """How many rows each example gives."""
    return [1] * len(keep) if positions == "mean_response" else keep.sum(1).tolist()


def kept(
    x: Float[Tensor, "batch pos d_model"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "row d_model"]:
    """The kept tokens, example after example."""
    return x[keep]


def kept_index(keep: Bool[Tensor, "batch pos"]) -> Int[Tensor, " row"]:
    """Where the kept tokens are among all of a batch, example after example.

    Taking rows by number needs no look at the mask at every site, which would make a GPU's host
    wait there.
    """
    return keep.flatten().nonzero().flatten()


def mean_kept(
    x: Float[Tensor, "batch pos d_model"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_model"]:
    """The mean over each example's kept tokens, whatever the others hold, NaN included."""
    weights = keep / keep.sum(1, keepdim=True)
    there = x.float().masked_fill(~keep[:, :, None], 0.0)  # infinity times 0 is NaN
    return torch.einsum("bpd,bp->bd", there, weights.float())
