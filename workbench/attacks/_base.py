"""What every attack is: the attacker's hyper-parameters, and `run`, which yields checkpoints.

Attacks exist to yield curves. The attacked model lives only while the caller looks at it and is
never saved; a curve is replayed from its seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from workbench import settings
from workbench.data import Streams
from workbench.training import Spent


@dataclass(frozen=True)
class Attacked:
    """The model after some steps of an attack, and what they cost."""

    step: int
    """Optimiser steps taken; 0 is the model as released."""
    model: nn.Module
    spent: Spent
    losses: dict[str, float] = field(default_factory=dict)
    lr: float = 0.0
    grad_norm: float = 0.0
    micro_batch: int = 0
    """Most examples in one forward pass; falls when memory runs out."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A bounded attempt to train the safety out of a model. Subclasses are frozen dataclasses."""

    family: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]
    """Names of the data streams the attacker trains on."""

    samples: int
    """Different examples the attacker holds (n)."""
    batch_size: int
    """Examples per optimiser step."""

    def __post_init__(self) -> None:
        settings.check(self)

    @property
    @abstractmethod
    def budget(self) -> int:
        """Optimiser steps the attacker can afford (T)."""

    @abstractmethod
    def run(self, model: nn.Module, streams: Streams, *, seed: int = 0) -> Iterator[Attacked]:
        """Yield the model as released, then after every step; the model given is not changed.

        The same module is trained between yields: measure it before asking for the next one.
        """
