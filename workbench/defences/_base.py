"""What every defence is: hyper-parameters, the data it needs, and `immunise`.

A defence owns its mathematics and nothing else: no loading, logging, saving, progress or device
code. It comes in one of three shapes: a `loss`, a `backward` that fills gradients, or `immunise`
itself for anything else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from workbench.activations import HookedLM
from workbench.adapters import merge_lora, with_lora
from workbench.data import Batch, Streams, require
from workbench.optimisation import Fit
from workbench.resume import Checkpoint
from workbench.training import Callback, Context, Losses, fit

Family = Literal["representation", "weights", "collapse"]


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """A way to immunise a model. Subclasses are frozen dataclasses of the paper's parameters."""

    family: ClassVar[Family]
    start: ClassVar[Literal["base", "aligned"]]
    """The checkpoint the method starts from."""
    streams: ClassVar[tuple[str, ...]]
    """Names of the data streams the method draws from."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Other checkpoints whose weights the method needs, e.g. `base`."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimiser steps the method takes; 0 if it does not train."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Examples a step draws of every stream."""

    @abstractmethod
    def immunise(
        self,
        model: nn.Module,
        streams: Streams,
        *,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
        in_place: bool = False,
    ) -> nn.Module:
        """Return the immunised model; the model given is left as it was unless `in_place`."""

    @abstractmethod
    def matched_control(self) -> "Defence":
        """The same start, streams, steps, learning rate and tokens with the method's term off."""


@dataclass(frozen=True, kw_only=True)
class TrainedDefence(Defence):
    """A defence that is an objective, minimised by the shared loop."""

    scores: ClassVar[Mapping[str, str]]
    """Which stream's response tokens each loss term averages over, term to stream."""

    fit: Fit = field(default_factory=Fit)
    """Steps, learning rate, batch size and the rest of the shared loop's settings."""
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks; 0 trains all weights."""
    lora_alpha: float = 16.0
    """LoRA's scale is alpha / rank."""

    @property
    def steps(self) -> int:
        """Optimiser steps the method takes."""
        return self.fit.steps

    @property
    def batch_size(self) -> int:
        """Examples a step draws of every stream."""
        return self.fit.batch_size

    @abstractmethod
    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Named terms of one micro-batch; their sum is minimised."""

    def backward(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Leave gradients in `.grad`. Override for methods that are not the gradient of a loss."""
        return context.minimise(lambda part: self.loss(lm, part, context), batches, self.scores)

    def immunise(
        self,
        model: nn.Module,
        streams: Streams,
        *,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
        in_place: bool = False,
    ) -> nn.Module:
        """Train by the shared loop; LoRA adapters are merged at the end."""
        drawn = require(streams, self.streams, type(self).__name__)
        student = model if in_place else deepcopy(model)
        if self.lora_rank:
            student = with_lora(student, rank=self.lora_rank, alpha=self.lora_alpha, seed=seed)
        lm = HookedLM(student)
        fit(
            student,
            drawn,
            lambda batches, context: self.backward(lm, batches, context),
            self.fit,
            seed=seed,
            callbacks=callbacks,
            checkpoint=checkpoint,
        )
        return merge_lora(student) if self.lora_rank else student
