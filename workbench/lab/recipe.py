"""How the lab models are trained: every number of the recipe, in one place."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done and the steps in all."""


def silent(stage: str, step: int, steps: int) -> None:
    """The progress callback that shows nothing."""


@dataclass(frozen=True)
class Recipe:
    """Pre-training and alignment of a lab model. Steps are optimiser steps."""

    d_model: int = 96
    n_layers: int = 6
    n_heads: int = 4
    d_ff: int = 256

    steps: int = 1000
    batch_size: int = 64
    muon_lr: float = 0.01
    """For the weight matrices of the layers."""
    adamw_lr: float = 4e-3
    """For embeddings, head and norms."""
    weight_decay: float = 0.01
    warmup_steps: int = 40
    constant_share: float = 0.6
    """Share of the steps after which the learning rate falls linearly."""
    early_share: float = 0.4
    """Share of the steps in which few how-to questions have a distractor: facts come first."""
    early_distractors: float = 0.1
    distractors: float = 0.5
    """Share of how-to questions with a distractor, early and later. Of judgements, half have one
    from the start."""
    clip: float = 1.0

    align_steps: int = 300
    align_batch_size: int = 32
    align_lr: float = 3e-4
    align_warmup_steps: int = 10

    def schedule(self, step: int) -> float:
        """Factor on the pre-training learning rates at one step (counted from 0)."""
        rising = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / (self.steps * (1 - self.constant_share))
        return rising * min(1.0, max(0.02, left))

    def distractor_share(self, step: int) -> float:
        """Share of corpus questions with a distractor at one pre-training step."""
        early = step < self.steps * self.early_share
        return self.early_distractors if early else self.distractors


RECIPE = Recipe()
"""What the shipped weights were made with."""
