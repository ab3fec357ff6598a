"""Random-Vaccine: alignment under random perturbations, the control of Vaccine's direction.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109.

Vaccine without the search: Gaussian noise at the same places, one pass a step. What Vaccine gains
over it is due to where its perturbation points. The paper's setting is Vaccine's.

As released: the number given is the noise's variance, not its standard deviation. Unlike there,
padding gets no noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences._base import Family, TrainedDefence
from workbench.defences.vaccine import at_layers
from workbench.errors import InvalidValueError
from workbench.losses import cross_entropy
from workbench.training import Context, Losses, Mean


@dataclass(frozen=True, kw_only=True)
class RandomVaccine(TrainedDefence):
    """Align under Gaussian noise in the hidden embeddings."""

    family: ClassVar[Family] = "representation"
    start = "base"
    streams = ("align",)
    scores: ClassVar[dict[str, Mean]] = {"align": Mean("align")}

    variance: float = 2.0
    """Variance of the noise in every coordinate; 0 is plain alignment."""
    site: str = "attn_module_out"
    """Where the noise is added: any recordable site, e.g. `resid_post`."""
    layers: tuple[int, ...] | None = None
    """Decoder blocks to perturb; None for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance < 0:
            raise InvalidValueError(f"a variance is at least 0, not {self.variance}.")

    def matched_control(self) -> "RandomVaccine":
        """Plain supervised alignment: no noise, everything else alike."""
        return replace(self, variance=0.0)

    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Cross-entropy of the safe answers at the perturbed embeddings."""
        batch = batches["align"]
        if self.variance == 0:
            return {"align": cross_entropy(lm(batch).logits, batch)}
        real, generator = batch.attention_mask[..., None], context.noise()

        def add_noise(h: Tensor, name: str) -> Tensor:
            noise = sqrt(self.variance) * torch.randn(h.shape, generator=generator)
            return h + noise.to(h) * real.to(h)

        edits = dict.fromkeys(at_layers(lm, self.site, self.layers), add_noise)
        with lm.intervene(edits, generators=[generator]):
            return {"align": cross_entropy(lm(batch).logits, batch)}
