"""Batched decoding with a key-value cache: prefill, sampling, early stop, log-probabilities.

Greedy output equals that of `transformers`' `generate(do_sample=False)`, token for token. It is
faster because prompts of like length share a batch and because rows that have finished leave it.
The cache is transformers' own: one that is written in place instead of grown by concatenation was
measured slower on small models, because attention then reads views of a larger block.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from workbench.data import generator, prompt_text
from workbench.errors import InvalidValueError

LEAVE = 8
"""Finished rows leave the batch once they are one in so many: each time, the cache is copied."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote in answer to one prompt."""

    prompt: str
    prefill: str
    text: str
    """The prefill and its continuation, without special tokens."""
    ids: tuple[int, ...]
    """The tokens decoded after the prefill, the stop token included."""
    log_probs: tuple[float, ...] | None
    """Log-probability of each of `ids` under the model at temperature 1 (nats), if asked for."""
    finished: bool
    """Whether the model stopped of itself, before `max_new_tokens` cut it off."""


@dataclass
class _Row:
    """One prompt while it is being decoded."""

    index: int
    prompt: str
    prefill: str
    prefill_ids: list[int]
    input_ids: list[int]
    draws: random.Random
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class _Decoding:
    """How to decode: the same for every batch."""

    stops: frozenset[int]
    max_new_tokens: int
    temperature: float
    log_probs: bool


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    prefill: str | Sequence[str] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    return_log_probs: bool = False,
) -> list[Completion]:
    """Answer each prompt through the chat template; answers come in the order of the prompts.

    Args:
        model: a Hugging Face causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with a chat template.
        prompts: what the user says.
        max_new_tokens: how many tokens to decode at most, the prefill not counted.
        prefill: how the answer begins (one for all, or one a prompt); the model continues it.
        temperature: 0 decodes greedily.
        seed: of the sampling. An answer depends on it and on the prompt's place in `prompts`, not
            on `batch_size`; torch's global generator is neither read nor moved.
        batch_size: how many prompts to decode at once at most.
        return_log_probs: also give the log-probability of each token.

    Raises:
        InvalidValueError: a value out of its range, a number of prefills other than that of the
            prompts, or a prompt too long for the model's context.
        ModelError: the tokenizer has no chat template.
    """
    _check(max_new_tokens, temperature, batch_size)
    rows = _rows(tokenizer, prompts, prefill, seed)
    _check_context(model, rows, max_new_tokens)
    stops = frozenset(stop_ids(model, tokenizer))
    decoding = _Decoding(stops, max_new_tokens, temperature, return_log_probs)
    by_length = sorted(rows, key=lambda row: len(row.input_ids))
    with _evaluating(model):
        for i in range(0, len(rows), batch_size):
            _decode(model, by_length[i : i + batch_size], decoding)
    return [_completion(tokenizer, row, return_log_probs) for row in rows]


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: the tokenizer's and those of the generation settings."""
    ends = [tokenizer.eos_token_id]
    if getattr(model, "generation_config", None) is not None:
        more = model.generation_config.eos_token_id
        ends += more if isinstance(more, list) else [more]
    return {end for end in ends if end is not None}


def _decode(model: Any, rows: Sequence[_Row], decoding: _Decoding) -> None:
    """Fill in what the model answers to some rows, all at once."""
    ids, mask = _left_padded(rows, decoding.max_new_tokens - 1, model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    start, stop = 0, ids.shape[1]
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, :stop],
            position_ids=positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = _next_tokens(logits, rows, decoding.temperature)
        _append(rows, tokens, logits, decoding)
        going = [i for i, row in enumerate(rows) if not row.finished]
        start, stop = stop, stop + 1
        if not going or stop > mask.shape[1]:
            return
        if (len(rows) - len(going)) * LEAVE >= len(rows):
            keep = torch.tensor(going, device=ids.device)
            rows = [rows[i] for i in going]
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            cache.reorder_cache(keep)
        ids = tokens[:, None]


def _left_padded(
    rows: Sequence[_Row], more: int, device: torch.device
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row all_pos"]]:
    """Token ids, and the mask of these and of the tokens to come."""
    width = max(len(row.input_ids) for row in rows)
    padded = [[0] * (width - len(row.input_ids)) + row.input_ids for row in rows]
    mask = [[0] * (width - len(row.input_ids)) + [1] * (len(row.input_ids) + more) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def _next_tokens(
    logits: Float[Tensor, "row vocab"], rows: Sequence[_Row], temperature: float
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
    rows: Sequence[_Row],
    tokens: Int[Tensor, " row"],
    logits: Float[Tensor, "row vocab"],
    decoding: _Decoding,
) -> None:
    """Write the tokens down; rows that finished earlier may still be in the batch."""
    chosen = [0.0] * len(rows)
    if decoding.log_probs:
        chosen = logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
    for row, token, log_prob in zip(rows, tokens.tolist(), chosen, strict=True):
        if not row.finished:
            row.ids.append(token)
            row.log_probs.append(log_prob)
            row.finished = token in decoding.stops


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _rows(
    tokenizer: Any, prompts: Sequence[str], prefill: str | Sequence[str] | None, seed: int
) -> list[_Row]:
    if isinstance(prompts, str):
        raise InvalidValueError("prompts must be a list of strings; got one string.")
    given = "" if prefill is None else prefill
    prefills = [given] * len(prompts) if isinstance(given, str) else given
    if len(prefills) != len(prompts):
        raise InvalidValueError(
            f"{len(prefills)} prefills for {len(prompts)} prompts; give one in all or one each."
        )
    rows = []
    for i, (prompt, start) in enumerate(zip(prompts, prefills, strict=True)):
        head = tokenizer.encode(prompt_text(tokenizer, prompt), add_special_tokens=False)
        begun = tokenizer.encode(start, add_special_tokens=False) if start else []
        rows.append(_Row(i, prompt, start, begun, head + begun, generator("generate", seed, i)))
    return rows


def _completion(tokenizer: Any, row: _Row, log_probs: bool) -> Completion:
    return Completion(
        prompt=row.prompt,
        prefill=row.prefill,
        # decoded as one, because some tokenizers drop the space before a text's first word
        text=tokenizer.decode(row.prefill_ids + row.ids, skip_special_tokens=True),
        ids=tuple(row.ids),
        log_probs=tuple(row.log_probs) if log_probs else None,
        finished=row.finished,
    )


def _check(max_new_tokens: int, temperature: float, batch_size: int) -> None:
    if max_new_tokens < 1 or batch_size < 1:
        raise InvalidValueError(
            "max_new_tokens and batch_size must be at least 1, "
            f"not {max_new_tokens} and {batch_size}."
        )
    if not 0 <= temperature < float("inf"):
        raise InvalidValueError(
            f"temperature must be 0 (greedy) or a positive number, not {temperature}."
        )


def _check_context(model: Any, rows: Sequence[_Row], max_new_tokens: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for row in rows:
        if limit is not None and len(row.input_ids) + max_new_tokens > limit:
            raise InvalidValueError(
                f"prompt {row.index} ({row.prompt[:60]!r}) has {len(row.input_ids)} tokens with "
                f"template and prefill; max_new_tokens={max_new_tokens} more exceed the model's "
                f"context of {limit}. Shorten the prompt or decode fewer tokens."
            )
