"""One optimiser step over more examples than memory holds: micro-batches that add up exactly.

An objective sees one micro-batch at a time. Each of its terms says what it is a mean over, so the
terms of the parts, weighed by their shares, are the terms of the whole, on one process or several.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from workbench.data import Batch
from workbench.errors import InvalidValueError

Losses = dict[str, Tensor]
"""Named terms of an objective, each a scalar mean over what it scores."""
LossFunction = Callable[[Mapping[str, Batch]], Losses]


@dataclass(frozen=True)
class Mean:
    """What a loss term is a mean over: response tokens, real tokens, slots or rows of a stream."""

    stream: str
    over: Literal["response", "tokens", "slots", "rows"] = "response"
    """`tokens` leaves padding out, `slots` counts it."""

    def count(self, batches: Mapping[str, Batch]) -> float:
        """How many of them there are."""
        batch = batches[self.stream]
        match self.over:
            case "response":
                return float(batch.response_mask.sum())
            case "tokens":
                return float(batch.attention_mask.sum())
            case "slots":
                return float(batch.attention_mask.numel())
            case "rows":
                return float(len(batch))


@dataclass(frozen=True)
class Context:
    """What the loop tells an objective about the step being taken."""

    step: int
    """Steps taken before this one."""
    steps: int
    generator: torch.Generator
    """The method's own randomness."""
    accelerator: Accelerator
    micro_batch: int | None = None
    """Most examples of a stream in one forward pass; None: all at once."""
    memory: dict[str, list[float]] = field(default_factory=dict)
    """What the method keeps from step to step; saved with checkpoints."""

    def noise(self) -> torch.Generator:
        """Randomness for what has to differ between processes: their rows are different ones.

        The method's own generator, unless there are several processes, which all draw the same
        numbers from that.
        """
        if self.accelerator.num_processes == 1:
            return self.generator
        shared = int(torch.randint(2**62, (), generator=self.generator))
        return torch.Generator().manual_seed(shared + self.accelerator.process_index)

    def minimise(
        self, loss: LossFunction, batches: Mapping[str, Batch], scores: Mapping[str, Mean]
    ) -> Losses:
        """Backward through `loss`, micro-batch by micro-batch, as if the batch were one.

        `scores` says what each term is a mean over; a micro-batch counts by its share of that, over
        all processes.
        """
        drawn = {term: mean for term, mean in scores.items() if mean.stream in batches}
        whole = {term: mean.count(batches) for term, mean in drawn.items()}
        totals: Losses = {}
        for part in parts(batches, self.micro_batch, self.accelerator):
            terms = {
                term: value * (scores[term].count(part) / whole[term])
                for term, value in loss(part).items()
            }
            self.accelerator.backward(torch.stack([*terms.values()]).sum())
            for term, value in terms.items():
                totals[term] = totals.get(term, 0) + value.detach()
        return {term: self.accelerator.reduce(value, "sum") for term, value in totals.items()}


def parts(
    batches: Mapping[str, Batch], size: int | None, accelerator: Accelerator
) -> Iterator[dict[str, Batch]]:
    """This process's share of every stream, in equally many micro-batches of each.

    Raises:
        InvalidValueError: a stream has too few rows for so many micro-batches.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    per_rank = -(-largest(batches) // world)
    count = world * (1 if size is None else -(-per_rank // size))
    short = [name for name, b in batches.items() if len(b) < count]
    if short:
        raise InvalidValueError(
            f"stream {short[0]!r} has {len(batches[short[0]])} rows a step, too few for {count} "
            "micro-batches. Use a larger micro_batch or fewer processes."
        )
    for i in range(rank, count, world):
        yield {name: _slice(b, i, count) for name, b in batches.items()}


def largest(batches: Mapping[str, Batch]) -> int:
    """Rows of the stream that has most."""
    return max(len(b) for b in batches.values())


def _slice(batch: Batch, index: int, count: int) -> Batch:
    if count == 1:
        return batch
    return batch.rows(range(index * len(batch) // count, (index + 1) * len(batch) // count))
