"""Batched decoding with a key-value cache: prefill, sampling, early stop, log-probabilities.

Greedy output equals that of `transformers`' `generate(do_sample=False)`, token for token, and comes
sooner where prompts or answers differ in length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.activations import evaluating
from workbench.chat_templates import prompt_text
from workbench.data import generator
from workbench.decoding import Decoding, Row, decode
from workbench.errors import InvalidValueError


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


@dataclass(frozen=True)
class _Request:
    """One prompt, tokenised."""

    prompt: str
    prefill: str
    prefill_ids: list[int]
    row: Row


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
    requests = _requests(tokenizer, prompts, prefill, seed)
    _check_context(model, requests, max_new_tokens)
    how = Decoding(
        frozenset(stop_ids(model, tokenizer)), max_new_tokens, temperature, return_log_probs
    )
    by_length = sorted((x.row for x in requests), key=lambda row: len(row.input_ids))
    with evaluating(model):
        for i in range(0, len(by_length), batch_size):
            decode(model, by_length[i : i + batch_size], how)
    return [_completion(tokenizer, x, return_log_probs) for x in requests]


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: the tokenizer's and those of the generation settings."""
    ends = [tokenizer.eos_token_id]
    if getattr(model, "generation_config", None) is not None:
        more = model.generation_config.eos_token_id
        ends += more if isinstance(more, list) else [more]
    return {end for end in ends if end is not None}


def _requests(
    tokenizer: Any, prompts: Sequence[str], prefill: str | Sequence[str] | None, seed: int
) -> list[_Request]:
    if isinstance(prompts, str):
        raise InvalidValueError("prompts must be a list of strings; got one string.")
    given = "" if prefill is None else prefill
    prefills = [given] * len(prompts) if isinstance(given, str) else given
    if len(prefills) != len(prompts):
        raise InvalidValueError(
            f"{len(prefills)} prefills for {len(prompts)} prompts; give one in all or one each."
        )
    requests = []
    for i, (prompt, start) in enumerate(zip(prompts, prefills, strict=True)):
        head = tokenizer.encode(prompt_text(tokenizer, prompt), add_special_tokens=False)
        begun = tokenizer.encode(start, add_special_tokens=False) if start else []
        row = Row(head + begun, generator("generate", seed, i))
        requests.append(_Request(prompt, start, begun, row))
    return requests


def _completion(tokenizer: Any, request: _Request, log_probs: bool) -> Completion:
    row = request.row
    return Completion(
        prompt=request.prompt,
        prefill=request.prefill,
        # decoded as one, because some tokenizers drop the space before a text's first word
        text=tokenizer.decode(request.prefill_ids + row.ids, skip_special_tokens=True),
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


def _check_context(model: Any, requests: Sequence[_Request], max_new_tokens: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for i, request in enumerate(requests):
        length = len(request.row.input_ids)
        if limit is not None and length + max_new_tokens > limit:
            raise InvalidValueError(
                f"prompt {i} ({request.prompt[:60]!r}) has {length} tokens with "
                f"template and prefill; max_new_tokens={max_new_tokens} more exceed the model's "
                f"context of {limit}. Shorten the prompt or decode fewer tokens."
            )
