"""Numbers as the pillars take them: finite, in one list."""

from collections.abc import Sequence

import numpy as np

from workbench.errors import InvalidValueError

Number = float | int
Numbers = Sequence[float | int] | np.ndarray


def finite(values: Numbers, name: str) -> np.ndarray:
    """The values as a vector.

    Raises:
        InvalidValueError: there are none, or they are not all finite numbers.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise InvalidValueError(f"{name} must be a list of finite numbers, not {values!r:.100}.")
    return array
