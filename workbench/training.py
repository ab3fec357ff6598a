"""The one training loop. Every defence and every attack takes its optimiser steps here.

A method hands over an *objective*: a function that leaves gradients in `.grad` and returns the
values of its named terms. The loop owns everything else: batches, accumulation across
micro-batches and processes, clipping, the schedule, precision, randomness, resuming, and stopping
when a number is no longer finite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import isfinite
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import nn

from workbench.accumulation import Context, Losses, Mean, largest
from workbench.data import Batch, Streams, generator
from workbench.errors import InvalidValueError, TrainingError
from workbench.memory_limit import within_memory
from workbench.optimisation import Fit
from workbench.read_only import refuse_read_only
from workbench.resume import Checkpoint, Randomness

__all__ = ["Callback", "Context", "Losses", "Mean", "Objective", "Spent", "Step", "fit", "train"]


@dataclass(frozen=True)
class Spent:
    """What training has drawn so far, and how long it took.

    Everything but the seconds follows from the batches drawn, whatever the objective does with
    them: a method and its matched control spend the same. It is exact for plain fine-tuning. A
    method that passes over a batch twice does not count double, and one that reads a stream in part
    (T-Vaccine's harmful rows between two scorings) counts all of it; what a method costs in truth,
    only the seconds say.
    """

    steps: int = 0
    """Optimiser steps."""
    samples: int = 0
    """Examples drawn, of all streams; one that is drawn again counts again."""
    tokens: int = 0
    """Their real tokens, padding left out."""
    flops: float = 0.0
    """`flops_per_token` for each of these: as if each had been trained on once."""
    seconds: float = 0.0
    """Wall time of the steps, callbacks left out."""


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
    micro_batch: int = 0
    """Most examples of a stream in one forward pass; falls when memory runs out."""
    restored: bool = False
    """Taken before an interruption: the model given beside it is not of this step."""


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
    coupled: bool = False,
) -> Iterator[Step]:
    """Train in place, one `Step` at a time; whoever iterates may measure the model in between.

    The loop draws from its own random state, so measuring between steps changes nothing. With a
    `checkpoint`, steps taken before an interruption are yielded from its history, not taken again.
    When memory runs out, the step is taken again in smaller micro-batches, which add up to the same
    step unless the objective is `coupled`: unless it depends on how the batch is split.

    Raises:
        ModelError: the weights are quantised or offloaded.
        TrainingError: a loss term or the gradient is not finite, or memory ran out and smaller
            micro-batches would be another objective; the step is not taken.
    """
    refuse_read_only(model, "training")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidValueError("no parameter of the model requires a gradient; nothing to train.")
    accelerator = Accelerator()
    optimiser = config.optimiser_for(parameters)
    randomness = Randomness(generator("train", seed).getrandbits(63), parameters[0].device)
    history: list[Step] = []
    memory: dict[str, list[float]] = {}
    if checkpoint is not None:
        taken = checkpoint.restore(parameters, optimiser, randomness, memory)
        history = [_step_from(x) for x in taken]
        yield from history
    spent = history[-1].spent if history else Spent()
    flops, size = flops_per_token(model), config.micro_batch

    def gradients(batches: Mapping[str, Batch], context: Context) -> Losses:
        with randomness.active(), autocast(config.precision, parameters[0].device):
            return objective(batches, context)

    for step in range(len(history), config.steps):
        started = perf_counter()
        batches = {name: s.batch(step).to(parameters[0].device) for name, s in streams.items()}
        rows = -(-largest(batches) // accelerator.num_processes)
        context = Context(step, config.steps, randomness.generator, accelerator, size, memory)
        model.train()
        losses, size = within_memory(
            partial(gradients, batches), context, rows, randomness, parameters,
            coupled=coupled,
        )  # fmt: skip
        values = {term: float(value) for term, value in losses.items()}
        norm = _gradient_norm(parameters, accelerator, config.clip)
        _refuse_non_finite(values | {"gradient norm": norm}, step, config.lr_at(step))
        for group in optimiser.param_groups:
            group["lr"] = config.lr_at(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        spent = _spend(spent, batches, flops, perf_counter() - started)
        done = Step(step + 1, values, config.lr_at(step), norm, spent, size or rows)
        history.append(done)
        if checkpoint is not None and checkpoint.due(step + 1, config.steps):
            if accelerator.is_main_process:
                checkpoint.write(parameters, optimiser, randomness, history, memory)
            accelerator.wait_for_everyone()
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
    coupled: bool = False,
) -> list[Step]:
    """Train to the end, calling every callback after each step; returns the history."""
    history = []
    loop = train(
        model, streams, objective, config, seed=seed, checkpoint=checkpoint, coupled=coupled
    )
    for step in loop:
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


def _gradient_norm(
    parameters: list[nn.Parameter], accelerator: Accelerator, clip: float | None
) -> float:
    if accelerator.num_processes > 1:
        mine = torch.tensor([float(p.grad is not None) for p in parameters])
        owners = accelerator.reduce(mine.to(parameters[0].device), "sum").tolist()
        for p, owned in zip(parameters, owners, strict=True):
            if owned:  # without a gradient anywhere it is frozen: of a zero, AdamW would decay it
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad = accelerator.reduce(grad, "sum")
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
