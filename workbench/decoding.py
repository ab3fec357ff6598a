"""Decoding one batch of prompts with a key-value cache.

Three things make it faster than `transformers`' `generate`: prompts are read in groups of like
length, whose caches are then put together; rows that have finished leave the batch; and nothing
stands between two forward passes but the choice of a token.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from workbench.read_only import input_device

GROUP = 16
"""Prompts read at once: fewer means less padding, more means fewer passes."""
LEAVE = 8
"""Finished rows leave the batch once they are one in so many: each time, the cache is copied."""


@dataclass
class Row:
    """One prompt while it is being decoded."""

    input_ids: list[int]
    draws: random.Random
    """Its own generator: what is drawn for it depends on no other row."""
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class Decoding:
    """How to decode."""

    stops: frozenset[int]
    max_new_tokens: int
    temperature: float
    log_probs: bool


def decode(model: Any, rows: Sequence[Row], how: Decoding) -> None:
    """Fill in what the model writes after each row; rows should be sorted by length."""
    mask = _padded([[1] * len(row.input_ids) for row in rows], input_device(model))
    stop = mask.shape[1]
    mask = nn.functional.pad(mask, (0, how.max_new_tokens), value=1)
    positions = _positions(mask)
    logits, cache = _prefill(model, rows)
    for step in range(how.max_new_tokens):
        tokens = _next_tokens(logits, rows, how.temperature)
        _append(rows, tokens, logits, how)
        going = [i for i, row in enumerate(rows) if not row.finished]
        if not going or step + 1 == how.max_new_tokens:
            return
        if (len(rows) - len(going)) * LEAVE >= len(rows):
            keep = torch.tensor(going, device=tokens.device)
            rows = [rows[i] for i in going]
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            cache.reorder_cache(keep)
        at = slice(stop + step, stop + step + 1)
        logits = _logits(model, tokens[:, None], mask[:, : at.stop], positions[:, at], cache)


def _prefill(model: Any, rows: Sequence[Row]) -> tuple[Float[Tensor, "row vocab"], DynamicCache]:
    """Read the prompts: logits of the first new token, and the cache."""
    whole = DynamicCache(config=model.config)
    size = len(rows) if any(whole.is_linear) else GROUP  # recurrent states are not positions
    read = [_read(model, rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(read) == 1:
        return read[0]
    width = max(len(row.input_ids) for row in rows)
    for layer, states in enumerate(zip(*(cache for _, cache in read), strict=True)):
        if states[0][0] is not None:  # None: the layer shares another's
            keys = torch.cat([_widened(keys, width) for keys, *_ in states])
            values = torch.cat([_widened(values, width) for _, values, *_ in states])
            whole.update(keys, values, layer)
    return torch.cat([logits for logits, _ in read]), whole


def _read(model: Any, rows: Sequence[Row]) -> tuple[Float[Tensor, "row vocab"], DynamicCache]:
    cache = DynamicCache(config=model.config)
    ids = _padded([row.input_ids for row in rows], input_device(model))
    mask = _padded([[1] * len(row.input_ids) for row in rows], input_device(model))
    return _logits(model, ids, mask, _positions(mask), cache), cache


def _logits(
    model: Any,
    ids: Int[Tensor, "row pos"],
    mask: Int[Tensor, "row all_pos"],
    positions: Int[Tensor, "row pos"],
    cache: DynamicCache,
) -> Float[Tensor, "row vocab"]:
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _padded(rows: Sequence[list[int]], device: torch.device) -> Int[Tensor, "row pos"]:
    """Rows of one width, zeros on the left."""
    width = max(map(len, rows))
    return torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)


def _positions(mask: Int[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _widened(
    states: Float[Tensor, "row head pos size"], width: int
) -> Float[Tensor, "row head width size"]:
    """States with masked positions put before them."""
    return nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))


def _next_tokens(
    logits: Float[Tensor, "row vocab"], rows: Sequence[Row], temperature: float
) -> Int[Tensor, " row"]:
    """The likeliest tokens, or a draw by inverting the distribution function.

    One uniform number a token, from the row's own generator: the batch cannot change it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    draws = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64)
    scaled = (logits - logits.max(-1, keepdim=True).values).double() / temperature
    cumulative = scaled.exp().cumsum(-1)
    at = draws.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _append(
    rows: Sequence[Row],
    tokens: Int[Tensor, " row"],
    logits: Float[Tensor, "row vocab"],
    how: Decoding,
) -> None:
    """Write the tokens down; rows that finished earlier may still be in the batch."""
    chosen = [0.0] * len(rows)
    if how.log_probs:
        chosen = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
    for row, token, log_prob in zip(rows, tokens.tolist(), chosen, strict=True):
        if not row.finished:
            row.ids.append(token)
            row.log_probs.append(log_prob)
            row.finished = token in how.stops
