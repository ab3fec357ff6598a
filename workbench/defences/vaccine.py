"""Vaccine: perturbation-aware alignment.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109.

Harmful fine-tuning works by drifting hidden embeddings. Vaccine aligns the model under the drift
that hurts alignment most: each step finds that drift (one pass), then trains with it in place (a
second pass). The paper's setting is LoRA r=8 α=4, AdamW lr 1e-3, weight decay 0.1, cosine, batch 5.

As released, not as written: the hidden embedding is the output of the attention *module* (§3.2),
the norm runs over the whole micro-batch, and 1e-7 is added to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences._base import Family, TrainedDefence
from workbench.errors import InvalidValueError, TrainingError
from workbench.losses import cross_entropy
from workbench.training import Context, Losses

Drift = dict[str, Float[Tensor, "batch pos d_model"]]
"""One perturbation a site, by canonical site name."""
TINY = 1e-7


@dataclass(frozen=True, kw_only=True)
class Vaccine(TrainedDefence):
    """Align under the worst-case embedding perturbation of norm ρ."""

    family: ClassVar[Family] = "representation"
    start = "base"
    streams = ("align",)
    scores: ClassVar[dict[str, str]] = {"align": "align"}

    rho: float = 2.0
    """Norm of the perturbation over everything in the norm's scope (ρ); 0 is plain alignment."""
    site: str = "attn_module_out"
    """Where the perturbation is added: any recordable site, e.g. `resid_post`."""
    layers: tuple[int, ...] | None = None
    """Decoder blocks to perturb; None for all."""
    norm_scope: Literal["batch", "sample", "layer"] = "batch"
    """What shares one norm. `batch` (the paper's) makes the step depend on the micro-batch."""

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise InvalidValueError(f"rho is a norm, so at least 0, not {self.rho}.")

    def matched_control(self) -> "Vaccine":
        """Plain supervised alignment: ρ = 0, everything else alike."""
        return replace(self, rho=0.0)

    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Cross-entropy of the safe answers at the perturbed embeddings (eq. 1-3)."""
        batch = batches["align"]
        if self.rho == 0:
            return {"align": cross_entropy(lm(batch).logits, batch)}
        drift = self.worst_drift(lm, batch, context)
        with lm.intervene({name: lambda h, name: h + drift[name] for name in drift}):
            return {"align": cross_entropy(lm(batch).logits, batch)}

    def worst_drift(self, lm: HookedLM, batch: Batch, context: Context | None = None) -> Drift:
        """ε* = ρ ∇L / ‖∇L‖: the first-order maximiser of the loss in the ρ-ball.

        Only activation gradients are computed. Padding, and the last position of every row, have no
        gradient and so no perturbation.

        Raises:
            TrainingError: the gradient is not finite.
        """
        hidden: Drift = {}

        def keep(h: Tensor, name: str) -> Tensor:
            live = h if h.requires_grad else h.detach().requires_grad_()
            return hidden.setdefault(name, live) if name not in hidden else live

        with lm.intervene(dict.fromkeys(self.sites(lm), keep)):
            loss = cross_entropy(lm(batch).logits, batch)
        grads = dict(zip(hidden, torch.autograd.grad(loss, list(hidden.values())), strict=True))
        return self._on_sphere(grads, context)

    def sites(self, lm: HookedLM) -> tuple[str, ...]:
        """Canonical names of the perturbed sites."""
        if self.layers is None:
            return lm.resolve(self.site)
        return lm.resolve(*[f"{self.site}.{layer}" for layer in self.layers])

    def _on_sphere(self, grads: Drift, context: Context | None) -> Drift:
        """Scale gradients to norm ρ within each scope."""
        axes = (1, 2) if self.norm_scope == "sample" else (0, 1, 2)
        squares = {k: g.float().pow(2).sum(axes, keepdim=True) for k, g in grads.items()}
        if self.norm_scope != "layer":
            total = torch.stack([*squares.values()]).sum(0)
            if context is not None and self.norm_scope == "batch":
                total = context.accelerator.reduce(total, "sum")
            squares = dict.fromkeys(grads, total)
        elif context is not None:
            squares = {k: context.accelerator.reduce(s, "sum") for k, s in squares.items()}
        if not all(torch.isfinite(s).all() for s in squares.values()):
            raise TrainingError(
                "Vaccine's gradient with respect to the hidden embeddings is not finite; the step "
                "was not taken. Try a lower learning rate or fp32."
            )
        return {k: (self.rho / (squares[k].sqrt() + TINY)).to(g) * g for k, g in grads.items()}
