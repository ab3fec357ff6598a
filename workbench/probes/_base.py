"""What every probe is: settings, and a comparison of checkpoints that ends in rows.

A probe is a frozen dataclass of settings. `against` reads what it needs of the reference once (and
fits what is to stay fixed, such as a map) and returns a function of the checkpoint, so that a run
of checkpoints is measured alike, whether live on θ_t or later.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.positions import Positions
from workbench.rows import Group, Row, Stage
from workbench.settings import check
from workbench.states import StatesOf, read_sites


@dataclass(frozen=True)
class At:
    """The checkpoint measured, and what it is compared with."""

    stage: Stage
    step: int
    reference: str
    """Name of the checkpoint compared with, e.g. `base` or `released`; empty without one."""


Measurement = Callable[[nn.Module, At], list[Row]]
"""Measures one checkpoint. Leaves the model's mode, weights and random numbers as they were."""


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """One analysis, with its settings."""

    writes: ClassVar[tuple[type[Row], ...]]
    """The kinds of row it gives."""
    needs_reference: ClassVar[bool] = True
    """Whether it compares with another checkpoint; others are given None."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Get ready to compare checkpoints with a reference on a panel.

        Raises:
            MissingStreamError: the panel's domain lacks texts that the probe reads.
            WorkbenchError: settings, texts or reference do not go together.
        """


LeaveOut = Callable[[str], AbstractContextManager[None]]
"""By a probe's name, a context that swallows what may cost this probe its rows, and notes it."""


def measurements(
    probes: Mapping[str, Probe], reference: nn.Module | None, panel: Panel, leave_out: LeaveOut
) -> list[Measurement]:
    """Probes ready to compare checkpoints with a reference; one that is left out gives no rows."""
    found: list[Measurement] = []
    for name, probe in probes.items():
        with leave_out(name):
            found.append(_guarded(probe.against(reference, panel), partial(leave_out, name)))
    return found


def _guarded(
    measure: Measurement, left_out: Callable[[], AbstractContextManager[None]]
) -> Measurement:
    def look(model: nn.Module, at: At) -> list[Row]:
        rows: list[Row] = []
        with left_out():
            rows = measure(model, at)
        return rows

    return look


@dataclass(frozen=True, kw_only=True)
class StateProbe(Probe):
    """A probe that looks at hidden states alone, so recordings do as well as live models."""

    sites: tuple[str, ...] = ("resid_post",)
    """Where in each block the hidden states are read."""
    positions: Positions = "last_prompt"
    """Which tokens are read."""

    @abstractmethod
    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Get ready to compare states with those of the reference.

        Args:
            then: the reference's states, for each group of text and each site.
        """

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Read the reference's states once, and those of every checkpoint as it comes."""
        if reference is None:
            raise InvalidValueError("a probe of states compares with a reference; give one.")
        compare = self.fit(self._read(reference, panel))
        return lambda model, at: compare(self._read(model, panel), at)

    def groups(self, panel: Panel) -> tuple[Group, ...]:
        """Which groups of text are read."""
        return panel.groups

    def _read(self, model: nn.Module, panel: Panel) -> StatesOf:
        return {
            (group, site): states
            for group in self.groups(panel)
            for site, states in read_sites(
                model, panel.batch(group), self.sites, self.positions
            ).items()
        }
