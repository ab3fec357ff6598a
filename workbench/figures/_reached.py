"""What prompts say place by place, as far as enough of their answers reach."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from workbench.errors import InvalidValueError

REACHED = 0.5
"""Share of the prompts whose answer must reach a place for it to be shown."""


def along(
    values: Sequence[Any], most: int | None, average: Callable[[list[float]], Any] = np.mean
) -> Iterator[tuple[int, int, float]]:
    """(place, prompts, average over them), from the first place to the last that enough reach.

    Args:
        values: one list of numbers a prompt.
        most: so many places at most; None for all.
        average: of one place's numbers.
    """
    longest = max(map(len, values))
    for k in range(longest if most is None else min(longest, most)):
        reached = [v[k] for v in values if len(v) > k]
        if len(reached) < REACHED * len(values):
            return
        yield k, len(reached), float(average(reached))


def require_positive(name: str, count: int | None) -> None:
    """Refuse a limit on places that leaves none.

    Raises:
        InvalidValueError: it is below one.
    """
    if count is not None and count < 1:
        raise InvalidValueError(f"{name} must be at least 1, not {count}.")
