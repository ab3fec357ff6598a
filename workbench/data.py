"""Text to token batches: examples, response masks, and named streams of batches.

A method never sees text. It declares which streams it draws (`align`, `harmful`, `retain`,
`benign`, `ref`) and receives, at each step, one `Batch` a stream.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.chat_templates import prompt_text, response_text
from workbench.errors import InvalidValueError, MissingStreamError, ModelError

STREAMS = {
    "align": "harmful prompt, refusal",
    "harmful": "harmful prompt, compliance",
    "refusal": "the harmful prompts again, refused",
    "retain": "text whose behaviour must not change: general, and refusals of an aligned model",
    "benign": "a downstream task that fine-tuning should still be able to teach",
    "ref": "what capability is measured on",
}
IGNORED = -100
"""Label of a position that carries no loss, as in torch and transformers."""


@dataclass(frozen=True)
class Example:
    """One prompt and the response to be learnt or scored. Without a prompt: plain text."""

    id: str
    prompt: str | None
    response: str


@dataclass(frozen=True)
class Batch:
    """Token ids with their masks. Positions outside `attention_mask` are padding."""

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    response_mask: Bool[Tensor, "batch pos"]
    """True on response tokens, the end-of-turn token included; never on prompt or padding."""
    examples: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Positions counted from each row's first real token, whichever side is padded."""
        return (self.attention_mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def scored(self) -> Bool[Tensor, "batch pos_minus_1"]:
        """Positions whose next token is a response token: where logits carry loss."""
        return self.response_mask[:, 1:]

    @property
    def targets(self) -> Int[Tensor, "batch pos_minus_1"]:
        """The token each scored position should predict, `IGNORED` elsewhere."""
        return self.input_ids[:, 1:].where(self.scored, torch.tensor(IGNORED))

    @cached_property
    def tokens(self) -> int:
        """How many real tokens the batch holds."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return self._with(lambda x: x.to(device), self.examples)

    def split(self, size: int) -> list["Batch"]:
        """Micro-batches of at most `size` rows, each trimmed to its own longest row."""
        return [self.rows(range(i, min(i + size, len(self)))) for i in range(0, len(self), size)]

    def rows(self, index: Sequence[int]) -> "Batch":
        """Some rows of the batch, without columns that are padding in all of them."""
        at = torch.as_tensor(list(index), device=self.input_ids.device)
        keep = self.attention_mask[at].any(0)
        return self._with(lambda x: x[at][:, keep], tuple(self.examples[i] for i in index))

    def _with(self, change: Callable[[Tensor], Tensor], examples: tuple[str, ...]) -> "Batch":
        tensors = (self.input_ids, self.attention_mask, self.response_mask)
        ids, real, scored = (change(x) for x in tensors)
        return Batch(ids, real, scored, examples)


def token_ids(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Ids of prompt and response, tokenised apart, as at generation time.

    A prompt without a response has no response token, not even the one that would end it.
    """
    if example.prompt is None:
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return start, tokenizer.encode(example.response, add_special_tokens=False) + end
    head = tokenizer.encode(prompt_text(tokenizer, example.prompt), add_special_tokens=False)
    if not example.response:
        return head, []
    tail = response_text(tokenizer, example.prompt, example.response)
    return head, tokenizer.encode(tail, add_special_tokens=False)


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_length: int | None = None,
    side: str = "right",
) -> Batch:
    """Tokenise examples into one padded batch.

    Raises:
        InvalidValueError: no examples, a row whose response does not fit in `max_length`, or a
            side other than left and right.
        ModelError: the tokenizer has no chat template, or no token to pad with.
    """
    if not examples:
        raise InvalidValueError("cannot make a batch of no examples; give at least one.")
    if side not in ("left", "right"):
        raise InvalidValueError(f"side must be 'left' or 'right', not {side!r}.")
    rows = [_fit(*token_ids(tokenizer, x), x, max_length) for x in examples]
    width = max(len(head) + len(tail) for head, tail in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad is None:
        raise ModelError("the tokenizer has neither a padding nor an end token; set one of them.")
    ids = torch.full((len(rows), width), pad)
    real, scored = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for i, (head, tail) in enumerate(rows):
        start = width - len(head) - len(tail) if side == "left" else 0
        stop = start + len(head) + len(tail)
        ids[i, start:stop] = torch.tensor(head + tail)
        real[i, start:stop] = True
        scored[i, start + len(head) : stop] = True
    return Batch(ids, real, scored, tuple(x.id for x in examples))


def _fit(
    head: list[int], tail: list[int], example: Example, max_length: int | None
) -> tuple[list[int], list[int]]:
    room = len(tail) if max_length is None else max_length - len(head)
    if tail and room < 1:
        raise InvalidValueError(
            f"example {example.id!r}: its prompt has {len(head)} tokens, so no response token fits "
            f"in max_length={max_length}. Raise max_length or drop the example."
        )
    return head, tail[:room]


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of vocabulary and chat template: equal digests give equal ids for equal text."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    parts = repr((vocabulary, tokenizer.chat_template, type(tokenizer).__name__))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def generator(*key: object) -> random.Random:
    """A random generator for one purpose: the same key gives the same numbers everywhere."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True)
class Stream:
    """Batches of one kind of example.

    Batch k depends on the seed and on k alone, so a run that was interrupted draws exactly what it
    would have drawn.
    """

    name: str
    examples: Sequence[Example]
    tokenizer: Any
    batch_size: int
    seed: int = 0
    max_length: int | None = None
    like: str = ""
    """Name of a stream to keep step with: example i of both comes at the same time."""

    def __post_init__(self) -> None:
        if not self.examples:
            raise MissingStreamError(f"stream {self.name!r} holds no examples.")
        if self.batch_size < 1:
            raise InvalidValueError(f"batch_size must be at least 1, not {self.batch_size}.")

    def batch(self, step: int) -> Batch:
        """The batch of one optimiser step; every epoch visits all examples in a new order."""
        start = step * self.batch_size
        return self._encode([self._at(i) for i in range(start, start + self.batch_size)])

    def __iter__(self) -> Iterator[Batch]:
        step = 0
        while True:
            yield self.batch(step)
            step += 1

    def _encode(self, examples: Sequence[Example]) -> Batch:
        return encode(self.tokenizer, examples, max_length=self.max_length)

    def _at(self, index: int) -> Example:
        epoch, offset = divmod(index, len(self.examples))
        return self.examples[self._order(epoch)[offset]]

    @cached_property
    def _orders(self) -> dict[int, list[int]]:
        return {}

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self.examples)))
            generator("stream", self.like or self.name, self.seed, epoch).shuffle(order)
            self._orders[epoch] = order
        return self._orders[epoch]


Streams = Mapping[str, Stream]


def require(streams: Streams, names: Sequence[str], method: str) -> Streams:
    """The streams a method declares, and no others.

    Raises:
        MissingStreamError: one of them was not given.
    """
    missing = [n for n in names if n not in streams]
    if missing:
        wanted = "; ".join(f"{n} ({STREAMS.get(n, 'see the method')})" for n in missing)
        raise MissingStreamError(
            f"{method} draws from {', '.join(names)}, but was not given: {wanted}. "
            f"Given: {', '.join(streams) or 'none'}."
        )
    return {n: streams[n] for n in names}
