"""What a probe's rows say about where they were measured."""

from dataclasses import dataclass

from workbench.rows import Group, Stage


@dataclass(frozen=True)
class At:
    """The checkpoint measured, what it is compared with, and the kind of text."""

    stage: Stage
    step: int
    reference: str
    """Name of the checkpoint compared with, e.g. `base` or `immunised`."""
    group: Group
