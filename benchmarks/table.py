"""What a row of the table is, and which there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.measure import Figure


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured and the goal it is held to."""

    name: str
    measured: str
    """What is measured, for readers."""
    goal: float
    better: Literal["lower", "higher"] = "lower"
    unit: str = "ratio"
    """Of `value`."""
    sides: str = "s"
    """Unit of `ours` and `peer`."""
    peer: str = ""
    limit: str = ""
    """The theoretical floor, in words."""
    bound: bool = False
    """Whether the goal is for the upper 95 % bound rather than the median."""
    reason: str = ""
    """Why the goal is missed, where it is."""

    def met(self, value: float, upper95: float | None) -> bool:
        """Whether a figure reaches the goal."""
        judged = upper95 if self.bound and upper95 is not None else value
        return judged <= self.goal if self.better == "lower" else judged >= self.goal


@dataclass(frozen=True)
class Bench:
    """One measurement, in a process of its own, that fills one row or several."""

    rows: tuple[Row, ...]
    measure: Callable[[bool], Sequence[Figure]]
    """Given whether to be quick (tiny sizes, few rounds), one figure a row."""
    on_request: bool = False
    """Too long to be run unless named."""
