"""Supervised fine-tuning on harmful examples: the attack that most defences are judged by.

Qi et al., "Fine-tuning aligned language models compromises safety, even when users do not intend
to!", ICLR 2024, arXiv:2310.03693: as few as ten examples remove alignment. Threat model and budget
are those of Rosati et al., EMNLP Findings 2024, arXiv:2402.16382, eq. 1.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from torch import nn

from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.attacks._base import Attack, Attacked
from workbench.data import Batch, Streams, require
from workbench.errors import InvalidValueError
from workbench.losses import cross_entropy
from workbench.optimisation import Fit, OptimiserName, ScheduleName
from workbench.read_only import refuse_read_only
from workbench.training import Context, Losses, Mean, Spent, train


@dataclass(frozen=True, kw_only=True)
class SupervisedFineTuning(Attack):
    """Fine-tune on harmful prompts with compliant answers, all weights or LoRA."""

    family = "supervised"
    streams = ("harmful",)

    steps: int = 96
    """The attacker's budget in optimiser steps (T)."""
    samples: int = 64
    """Different harmful examples the attacker holds (n)."""
    lr: float = 1e-4
    """Learning rate."""
    batch_size: int = 16
    """Examples per optimiser step."""
    micro_batch: int | None = None
    """Examples per forward pass; None: the whole batch at once."""
    optimiser: OptimiserName = "adamw"
    """Which optimiser the attacker uses."""
    schedule: ScheduleName = "constant"
    """Shape of the learning rate."""
    warmup: int = 10
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks; 0 trains all weights."""
    lora_alpha: float = 16.0
    """LoRA's scale is alpha / rank."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes forward passes under autocast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.lora_rank < 0 or self.lora_alpha <= 0:
            raise InvalidValueError(
                "samples must be at least 1, lora_rank at least 0 and lora_alpha positive, not "
                f"{self.samples}, {self.lora_rank} and {self.lora_alpha}."
            )
        self.fit  # noqa: B018  (checks the other fields)

    @property
    def budget(self) -> int:
        """Optimiser steps the attacker can afford (T)."""
        return self.steps

    @property
    def fit(self) -> Fit:
        """The loop's settings."""
        names = ("steps", "lr", "batch_size", "micro_batch", "optimiser", "schedule", "warmup",
                 "weight_decay", "precision")  # fmt: skip
        return Fit(**{name: getattr(self, name) for name in names})

    def run(self, model: nn.Module, streams: Streams, *, seed: int = 0) -> Iterator[Attacked]:
        """Fine-tune a copy, yielding it before the first step and after each."""
        refuse_read_only(model, "attacking")
        drawn = require(streams, self.streams, type(self).__name__)
        student = deepcopy(model)
        if self.lora_rank:
            student = with_lora(student, rank=self.lora_rank, alpha=self.lora_alpha, seed=seed)
        lm = HookedLM(student, check=False)

        def objective(batches: Mapping[str, Batch], context: Context) -> Losses:
            return context.minimise(loss, batches, {"harmful": Mean("harmful")})

        def loss(part: Mapping[str, Batch]) -> Losses:
            return {"harmful": cross_entropy(lm(part["harmful"]).logits, part["harmful"])}

        yield Attacked(0, student, Spent())
        for s in train(student, drawn, objective, self.fit, seed=seed):
            yield Attacked(s.step, student, s.spent, s.losses, s.lr, s.grad_norm, s.micro_batch)
