"""Curves over the steps of a training: metrics, costs, losses, prefills."""

from dataclasses import dataclass
from typing import ClassVar

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class Metric(Row):
    """One number about one checkpoint: a point of a curve f(θ_t) or g(θ_t)."""

    kind: ClassVar[str] = "metrics"

    stage: Stage
    step: int
    """Optimiser steps taken when the checkpoint was measured (steps)."""
    split: str
    """Which of the four splits the prompts come from: defend, attack, val, test."""
    domain: str
    """Part of the world the prompts come from, e.g. `defended` or `unseen`."""
    name: str
    """What was measured: harmfulness, refused, complied, right, broken, capability, ..."""
    value: float
    unit: str = "share"
    n: int
    """How many prompts stand behind the value."""


@dataclass(frozen=True, kw_only=True)
class Cost(Row):
    """What the attacker or defender had spent when a checkpoint was measured (cumulative)."""

    kind: ClassVar[str] = "costs"

    stage: Stage
    step: int
    samples: int
    """Training examples seen, with repetition."""
    tokens: int
    """Non-padding tokens trained on."""
    flops: float
    """6·N·tokens for full training; 4·N·tokens + 2·N_adapter·tokens for LoRA (N parameters)."""
    seconds: float
    """Wall time spent training, measuring excluded."""


@dataclass(frozen=True, kw_only=True)
class Loss(Row):
    """One term of the training objective at one optimiser step."""

    kind: ClassVar[str] = "losses"

    stage: Stage
    step: int
    term: str
    value: float
    lr: float
    grad_norm: float
    """Global gradient norm before clipping."""


@dataclass(frozen=True, kw_only=True)
class Prefill(Row):
    """Whether one example's answer succeeds when the first k tokens of it are given."""

    kind: ClassVar[str] = "prefill"
    axis: ClassVar[str] = "prefilled_tokens"

    stage: Stage
    step: int
    split: str
    domain: str
    example: str
    group: Group
    values: list[float]
    """1 or 0 for k = 0, 1, ..., as far as the answer reaches."""
