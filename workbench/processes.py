"""Several processes of one training (torch.distributed): who writes, and what the others hear."""

from typing import TypeVar

from torch import distributed

Value = TypeVar("Value")


def several() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return not several() or distributed.get_rank() == 0


def from_first(value: Value) -> Value:
    """What the first process passed here; all processes have to call this."""
    if not several():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
