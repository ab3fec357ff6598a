"""The one training loop. Every defence and every attack takes its optimiser steps here.

A method hands over an *objective*: a function that leaves gradients in `.grad` and returns the
values of its named terms. The loop owns everything else: batches, accumulation across
micro-batches and processes, clipping, the schedule, precision, randomness, resuming, and stopping
when a number is no longer finite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from workbench.data import Batch, Streams, generator
from workbench.errors import InvalidValueError, TrainingError
from workbench.optimisation import Fit
from workbench.resume import Checkpoint, Randomness

Losses = dict[str, Tensor]
"""Named terms of an objective, each a scalar mean over what it scores."""
LossFunction = Callable[[Mapping[str, Batch]], Losses]


@dataclass(frozen=True)
class Spent:
    """What training has cost so far."""

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """One optimiser step, after it was taken."""

    step: int
    """Steps taken so far; 1 after the first."""
    losses: dict[str, float]
    lr: float
    grad_norm: float
    """Global norm before clipping."""
    spent: Spent
    restored: bool = False
    """Taken before an interruption: the model given beside it is not of this step."""


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

    @property
    def progress(self) -> float:
        """Share of the training that lies behind, in [0, 1)."""
        return self.step / self.steps

    def minimise(
        self, loss: LossFunction, batches: Mapping[str, Batch], scores: Mapping[str, str]
    ) -> Losses:
        """Backward through `loss`, micro-batch by micro-batch, as if the batch were one.

        Each term is a mean over the response tokens of one stream (`scores`: term to stream), so a
        micro-batch counts by its share of that stream's tokens, over all processes.
        """
        whole = {name: batch.response_mask.sum() for name, batch in batches.items()}
        totals: Losses = {}
        for part in _parts(batches, self.micro_batch, self.accelerator):
            share = {name: part[name].response_mask.sum() / whole[name] for name in part}
            terms = {term: value * share[scores[term]] for term, value in loss(part).items()}
            self.accelerator.backward(torch.stack([*terms.values()]).sum())
            for term, value in terms.items():
                totals[term] = totals.get(term, 0) + value.detach()
        return {term: self.accelerator.reduce(value, "sum") for term, value in totals.items()}


Objective = Callable[[Mapping[str, Batch], Context], Losses]
Callback = Callable[[Step, nn.Module], None]


def train(
    model: nn.Module,
    streams: Streams,
    objective: Objective,
    config: Fit,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Step]:
    """Train in place, one `Step` at a time; whoever iterates may measure the model in between.

    The loop draws from its own random state, so measuring between steps changes nothing. With a
    `checkpoint`, steps taken before an interruption are yielded from its history, not taken again.

    Raises:
        TrainingError: a loss term or the gradient is not finite; the step is not taken.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidValueError("no parameter of the model requires a gradient; nothing to train.")
    accelerator = Accelerator()
    optimiser = config.optimiser_for(parameters)
    randomness = Randomness(generator("train", seed).getrandbits(63), parameters[0].device)
    history: list[Step] = []
    if checkpoint is not None:
        history = [_step_from(x) for x in checkpoint.restore(parameters, optimiser, randomness)]
        yield from history
    spent = history[-1].spent if history else Spent()
    flops = flops_per_token(model)
    for step in range(len(history), config.steps):
        started = perf_counter()
        batches = {name: s.batch(step).to(parameters[0].device) for name, s in streams.items()}
        context = Context(step, config.steps, randomness.generator, accelerator, config.micro_batch)
        model.train()
        with randomness.active(), autocast(config.precision, parameters[0].device):
            losses = objective(batches, context)
        values = {term: float(value) for term, value in losses.items()}
        norm = _gradient_norm(parameters, accelerator, config.clip)
        _refuse_non_finite(values | {"gradient norm": norm}, step, config.lr_at(step))
        for group in optimiser.param_groups:
            group["lr"] = config.lr_at(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        spent = _spend(spent, batches, flops, perf_counter() - started)
        done = Step(step + 1, values, config.lr_at(step), norm, spent)
        history.append(done)
        if checkpoint is not None and checkpoint.due(step + 1, config.steps):
            checkpoint.write(parameters, optimiser, randomness, history)
        yield done
    model.eval()


def fit(
    model: nn.Module,
    streams: Streams,
    objective: Objective,
    config: Fit,
    *,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
) -> list[Step]:
    """Train to the end, calling every callback after each step; returns the history."""
    history = []
    for step in train(model, streams, objective, config, seed=seed, checkpoint=checkpoint):
        history.append(step)
        for callback in callbacks:
            callback(step, model)
    return history


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Forward passes in bf16 where asked for; weights stay as they are."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Optimiser steps that visit every example once."""
    return -(-examples // batch_size)


def flops_per_token(model: nn.Module) -> float:
    """Training FLOPs a token: 6N, or 4N + 2·(trained parameters) when most weights are frozen.

    N leaves out the input embedding, which is a look-up (Kaplan et al. 2020, arXiv:2001.08361,
    table 1).
    """
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    tied = getattr(model.config, "tie_word_embeddings", False)
    total = sum(p.numel() for p in model.parameters()) - (0 if tied else embedding.numel())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained >= total:
        return 6.0 * total
    return 4.0 * total + 2.0 * trained


def _parts(
    batches: Mapping[str, Batch], size: int | None, accelerator: Accelerator
) -> Iterator[dict[str, Batch]]:
    """This process's share of every stream, in equally many micro-batches of each."""
    world, rank = accelerator.num_processes, accelerator.process_index
    largest = max(len(b) for b in batches.values())
    per_rank = -(-largest // world)
    count = world * (1 if size is None else -(-per_rank // size))
    short = [name for name, b in batches.items() if len(b) < count]
    if short:
        raise InvalidValueError(
            f"stream {short[0]!r} has {len(batches[short[0]])} rows a step, too few for {count} "
            "micro-batches. Use a larger micro_batch or fewer processes."
        )
    for i in range(rank, count, world):
        yield {name: _slice(b, i, count) for name, b in batches.items()}


def _slice(batch: Batch, index: int, count: int) -> Batch:
    if count == 1:
        return batch
    return batch.rows(range(index * len(batch) // count, (index + 1) * len(batch) // count))


def _gradient_norm(
    parameters: list[nn.Parameter], accelerator: Accelerator, clip: float | None
) -> float:
    if accelerator.num_processes > 1:
        for p in parameters:
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
    limit = float("inf") if clip is None else clip
    return float(nn.utils.clip_grad_norm_(parameters, limit))


def _refuse_non_finite(values: Mapping[str, float], step: int, lr: float) -> None:
    bad = [f"{name} is {v}" for name, v in values.items() if not isfinite(v)]
    if bad:
        raise TrainingError(
            f"stopped before optimiser step {step + 1}: {'; '.join(bad)}. The weights are those of "
            f"step {step}. Try a lower learning rate (it was {lr:.3g}) or fp32."
        )


def _spend(spent: Spent, batches: Mapping[str, Batch], flops: float, seconds: float) -> Spent:
    tokens = sum(b.tokens for b in batches.values())
    return Spent(
        spent.steps + 1,
        spent.samples + sum(len(b) for b in batches.values()),
        spent.tokens + tokens,
        spent.flops + flops * tokens,
        spent.seconds + seconds,
    )


def _step_from(record: dict) -> Step:
    return Step(**record | {"spent": Spent(**record["spent"]), "restored": True})
