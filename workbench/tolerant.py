"""Probes that two checkpoints need not suit: they say why and give no rows, and others go on."""

from collections.abc import Callable

from torch import nn

from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.probes import At, Measurement, Probe
from workbench.rows import Row


def tolerant(probe: Probe, refused: Callable[[InvalidValueError], None]) -> Probe:
    """The same probe, which hands its own refusals to a function instead of raising them.

    Settings and module stay those of the probe, because a run's header is made of them.

    Args:
        probe: which.
        refused: told why it refuses the checkpoints, their texts or its settings for them.
    """
    kind = type(probe)

    class Tolerant(kind):  # type: ignore[misc, valid-type]
        def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
            try:
                measure = super().against(reference, panel)
            except InvalidValueError as error:
                refused(error)
                return lambda model, at: []

            def measured(model: nn.Module, at: At) -> list[Row]:
                try:
                    return measure(model, at)
                except InvalidValueError as error:
                    refused(error)
                    return []

            return measured

    Tolerant.__module__ = kind.__module__
    return Tolerant(**vars(probe))
