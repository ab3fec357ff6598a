"""What every defence is: hyper-parameters, the data it needs, and `immunise`.

A defence owns its mathematics and nothing else: no loading, logging, saving, progress or device
code. It comes in one of three shapes: a `loss`, a `backward` that fills gradients, or `immunise`
itself for anything else.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from workbench import settings
from workbench.activations import HookedLM
from workbench.adapters import merged_afterwards
from workbench.data import Batch, Streams, require
from workbench.defences._freezing import same_flags
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit
from workbench.read_only import refuse_read_only
from workbench.resume import Checkpoint
from workbench.training import Callback, Context, Losses, Mean, Objective, fit

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

    def __post_init__(self) -> None:
        settings.check(self)

    @property
    def draws(self) -> tuple[str, ...]:
        """Names of the streams that these hyper-parameters need."""
        return self.streams

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

    scores: ClassVar[Mapping[str, Mean]]
    """What each loss term is a mean over."""

    fit: Fit = field(default_factory=Fit)
    """Steps, learning rate, batch size and the rest of the shared loop's settings."""
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks; 0 trains all weights."""
    lora_alpha: float = 16.0
    """LoRA's scale is alpha / rank."""
    lora_targets: tuple[str, ...] | None = None
    """Linear layers that get adapters, by the ends of their names (`q_proj`); None for all."""
    lora_dropout: float = 0.0
    """Dropout on the adapters' input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank < 0:
            raise InvalidValueError(f"lora_rank is at least 0, not {self.lora_rank}.")
        if self.lora_alpha <= 0:
            raise InvalidValueError(
                f"lora_alpha is positive, not {self.lora_alpha}; lora_rank=0 is without adapters."
            )
        if not 0 <= self.lora_dropout < 1:
            raise InvalidValueError(
                f"lora_dropout is a probability below 1, and at least 0, not {self.lora_dropout}."
            )

    @property
    def steps(self) -> int:
        """Optimiser steps the method takes."""
        return self.fit.steps

    @property
    def batch_size(self) -> int:
        """Examples a step draws of every stream."""
        return self.fit.batch_size

    @property
    def coupled(self) -> bool:
        """Whether a step depends on how its batch is split into micro-batches."""
        return False

    @abstractmethod
    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Named terms of one micro-batch; their sum is minimised."""

    def backward(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Leave gradients in `.grad`. Override for methods that are not the gradient of a loss."""
        return context.minimise(lambda part: self.loss(lm, part, context), batches, self.scores)

    def objective(self, lm: HookedLM, streams: Streams) -> Objective:
        """What the loop calls at every step; made once, before training.

        Override it for what has to live as long as the training does, a reference model say.
        """
        return lambda batches, context: self.backward(lm, batches, context)

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
        """Train by the shared loop.

        However training ends, by an error or a key too, a model trained in place is what it was but
        for its weights, which are those of the last step taken: adapters are merged, no hook and no
        gradient is left, parameters require gradients as before, the mode is evaluation.
        """
        refuse_read_only(model, "immunising")
        drawn = require(streams, self.draws, type(self).__name__)
        student = model if in_place else deepcopy(model)
        with self._in_training(student, seed) as lm:
            fit(
                lm.model,
                drawn,
                self.objective(lm, drawn),
                self.fit,
                seed=seed,
                callbacks=callbacks,
                checkpoint=checkpoint,
                coupled=self.coupled,
            )
        return student

    @contextmanager
    def _in_training(self, model: nn.Module, seed: int) -> Iterator[HookedLM]:
        """The model with all that these settings add to it while it is trained."""
        with ExitStack() as afterwards:
            afterwards.callback(model.eval)
            afterwards.callback(model.zero_grad)
            afterwards.enter_context(same_flags(model))
            if self.lora_rank:
                adapted = merged_afterwards(
                    model,
                    rank=self.lora_rank,
                    alpha=self.lora_alpha,
                    targets=self.lora_targets,
                    dropout=self.lora_dropout,
                    seed=seed,
                )
                lm = HookedLM(afterwards.enter_context(adapted))
            else:
                lm = HookedLM(model)
            if self.fit.gradient_checkpointing:
                lm.gradient_checkpointing()
                afterwards.callback(lm.gradient_checkpointing, False)
            yield lm
