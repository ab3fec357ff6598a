"""Memory that runs out: the step again in smaller micro-batches, where that is the same step."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn

from workbench.accumulation import Context, Losses
from workbench.errors import TrainingError, WorkbenchError
from workbench.resume import Randomness


def within_memory(
    take: Callable[[Context], Losses],
    context: Context,
    rows: int,
    randomness: Randomness,
    parameters: Sequence[nn.Parameter],
    *,
    coupled: bool,
) -> tuple[Losses, int | None]:
    """Take a step; when memory runs out, again with micro-batches half the size.

    Every attempt begins with the same random numbers and without gradients. Returns the losses, and
    the size that was used.

    Args:
        take: leaves gradients in `.grad`.
        context: of the step; its micro-batch is where to begin.
        rows: of the batch, in this process.
        randomness: the run's.
        parameters: whose gradients a failed attempt leaves behind.
        coupled: whether another size would be another objective; then the size that fits is found,
            named, and not used.

    Raises:
        TrainingError: no smaller size works, or the objective is coupled, or there are several
            processes, each of which would go its own way.
    """
    state, size = randomness.state(), context.micro_batch
    while True:
        try:
            losses = take(replace(context, micro_batch=size))
        except Exception as error:
            if not should_reduce_batch_size(error):
                if size != context.micro_batch and isinstance(error, WorkbenchError):
                    raise TrainingError(f"{_ran_out(context, rows)} {SAVE} ({error})") from error
                raise
            tried = rows if size is None else min(size, rows)
            if tried == 1:
                raise TrainingError(f"{_ran_out(context, rows)} {SAVE}") from error
            size = -(-tried // 2)
            if context.accelerator.num_processes > 1:
                raise TrainingError(
                    f"{_ran_out(context, rows)} Several processes do not change that on the way: "
                    f"set fit.micro_batch={size}, or fit.gradient_checkpointing=True."
                ) from error
        else:
            break
        for p in parameters:  # outside `except`, whose traceback holds the failed graph
            p.grad = None
        clear_device_cache()
        randomness.load(state)
    if coupled and size != context.micro_batch:
        raise TrainingError(
            f"{_ran_out(context, rows)} {size} examples at a time fit, but this method's step "
            f"depends on how the batch is split, so the choice is yours: set fit.micro_batch="
            f"{size}, or fit.gradient_checkpointing=True to keep the method as it is."
        )
    return losses, size


SAVE = "Fewer at a time do not work. Set fit.gradient_checkpointing=True, or use a larger device."


def _ran_out(context: Context, rows: int) -> str:
    size = rows if context.micro_batch is None else min(context.micro_batch, rows)
    return (
        f"stopped before optimiser step {context.step + 1}: out of memory with {size} "
        f"example{'s' if size > 1 else ''} at a time."
    )
