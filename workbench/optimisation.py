"""How a step is taken: optimisers by name, and learning-rate schedules by optimiser step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from workbench import settings
from workbench.errors import InvalidValueError

OptimiserName = Literal["adamw", "adam", "sgd", "nesterov", "adagrad", "adadelta"]
ScheduleName = Literal["constant", "linear", "cosine"]

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda params, **kw: torch.optim.AdamW(params, betas=(0.9, 0.98), **kw),
    "adam": lambda params, **kw: torch.optim.Adam(params, betas=(0.9, 0.98), **kw),
    "sgd": lambda params, **kw: torch.optim.SGD(params, momentum=0.9, **kw),
    "nesterov": lambda params, **kw: torch.optim.SGD(params, momentum=0.9, nesterov=True, **kw),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How long, how fast and on how much at a time the shared loop trains."""

    steps: int = 300
    """Optimiser steps (T)."""
    lr: float = 3e-4
    """Peak learning rate."""
    batch_size: int = 32
    """Examples an optimiser step sees, of every stream."""
    micro_batch: int | None = None
    """Examples per forward pass; gradients accumulate to the full batch. None: all at once."""
    optimiser: OptimiserName = "adamw"
    """Which torch optimiser; Adam variants use betas (0.9, 0.98), SGD momentum 0.9."""
    weight_decay: float = 0.0
    """Decoupled for AdamW, L2 for the others."""
    schedule: ScheduleName = "linear"
    """Shape of the learning rate after warm-up; linear and cosine end at zero."""
    warmup: int = 10
    """Optimiser steps over which the learning rate rises to its peak."""
    clip: float | None = 1.0
    """Global gradient norm is clipped to this; None leaves it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes forward passes under autocast; weights and optimiser stay as loaded."""
    gradient_checkpointing: bool = False
    """Recompute every block in backward instead of keeping its activations."""

    def __post_init__(self) -> None:
        settings.check(self)
        checks = {
            "steps": (self.steps >= 1, "at least 1"),
            "lr": (self.lr > 0, "a positive number"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "micro_batch": (
                self.micro_batch is None or self.micro_batch >= 1,
                "at least 1 or None",
            ),
            "warmup": (self.warmup >= 0, "at least 0"),
            "clip": (self.clip is None or self.clip > 0, "positive or None"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise InvalidValueError(f"{name} must be {expected}, not {getattr(self, name)!r}.")

    def lr_at(self, step: int) -> float:
        """Learning rate of one optimiser step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        done = step / self.steps
        fall = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }
        return self.lr * rise * fall[self.schedule]

    def optimiser_for(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser over these parameters."""
        make = OPTIMISERS[self.optimiser]
        return make(list(parameters), lr=self.lr, weight_decay=self.weight_decay)
