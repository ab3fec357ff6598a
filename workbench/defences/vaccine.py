"""Vaccine: perturbation-aware alignment.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109.

Harmful fine-tuning works by drifting hidden embeddings. Vaccine aligns the model under the drift
that hurts alignment most: each step finds that drift (one pass), then trains with it in place (a
second pass). The paper's setting is LoRA r=8 α=4, AdamW lr 1e-3, weight decay 0.1, cosine, batch 5.

As released, not as written: the hidden embedding is the output of the attention *module* (§3.2),
the norm runs over the whole micro-batch, and 1e-7 is added to it.
"""

from collections.abc import Mapping, Sequence
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
from workbench.training import Context, Losses, Mean

Drift = dict[str, Float[Tensor, "batch pos d_model"]]
"""One perturbation a site, by canonical site name."""
TINY = 1e-7


@dataclass(frozen=True, kw_only=True)
class Vaccine(TrainedDefence):
    """Align under the worst-case embedding perturbation of norm ρ."""

    family: ClassVar[Family] = "representation"
    start = "base"
    streams = ("align",)
    scores: ClassVar[dict[str, Mean]] = {"align": Mean("align")}

    rho: float = 2.0
    """Norm of the perturbation over everything in the norm's scope (ρ); 0 is plain alignment."""
    site: str = "attn_module_out"
    """Where the perturbation is added: any recordable site, e.g. `resid_post`."""
    layers: tuple[int, ...] | None = None
    """Decoder blocks to perturb; None for all."""
    norm_scope: Literal["batch", "sample", "layer"] = "batch"
    """What shares one norm. `batch` (the paper's) makes the step depend on the micro-batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 0:
            raise InvalidValueError(f"rho is a norm, so at least 0, not {self.rho}.")

    @property
    def coupled(self) -> bool:
        """A norm over the micro-batch depends on what is in it."""
        return self.rho > 0 and self.norm_scope != "sample"

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
        return self._on_sphere(embedding_gradients(lm, batch, self.sites(lm)), batch, context)

    def sites(self, lm: HookedLM) -> tuple[str, ...]:
        """Canonical names of the perturbed sites."""
        return at_layers(lm, self.site, self.layers)

    def _on_sphere(self, grads: Drift, batch: Batch, context: Context | None) -> Drift:
        """Scale gradients to norm ρ within each scope, over all processes."""
        axes = (1, 2) if self.norm_scope == "sample" else (0, 1, 2)
        squares = torch.stack([g.float().pow(2).sum(axes, keepdim=True) for g in grads.values()])
        share = 1.0
        if context is not None and self.norm_scope != "sample":
            share, squares = _over_processes(squares, batch, context)
        require_finite("Vaccine", squares)
        if self.norm_scope != "layer":
            squares = squares.sum(0).expand_as(squares)
        scales = share * self.rho / (squares.sqrt() + TINY)
        pairs = zip(grads.items(), scales, strict=True)
        # In fp32: rounded to bf16, one factor would put the whole perturbation off the sphere.
        return {name: (scale * g.float()).to(g) for (name, g), scale in pairs}


def embedding_gradients(lm: HookedLM, batch: Batch, sites: Sequence[str]) -> Drift:
    """Gradient of the batch's cross-entropy with respect to the activations at some sites.

    No weight's gradient is computed, and none has to be trainable.
    """
    hidden: Drift = {}

    def keep(h: Tensor, name: str) -> Tensor:
        live = h if h.requires_grad else h.detach().requires_grad_()
        return hidden.setdefault(name, live) if name not in hidden else live

    with lm.intervene(dict.fromkeys(sites, keep)):
        loss = cross_entropy(lm(batch).logits, batch)
    return dict(zip(hidden, torch.autograd.grad(loss, list(hidden.values())), strict=True))


def at_layers(lm: HookedLM, site: str, layers: Sequence[int] | None) -> tuple[str, ...]:
    """Canonical names of a site in some decoder blocks, or in all.

    Raises:
        SiteError: there is no such site.
    """
    if layers is None:
        return lm.resolve(site)
    return lm.resolve(*[f"{site}.{layer}" for layer in layers])


def require_finite(method: str, squares: Tensor) -> None:
    """Refuse gradients that cannot be divided by their norm.

    Raises:
        TrainingError: at least one value is not finite.
    """
    if not torch.isfinite(squares).all():
        raise TrainingError(
            f"{method}'s gradient with respect to the hidden embeddings is not finite; the step "
            "was not taken. Try a lower learning rate or fp32."
        )


def _over_processes(squares: Tensor, batch: Batch, context: Context) -> tuple[float, Tensor]:
    """This process's share of the response tokens, and the squares as of one batch.

    Every process has the gradient of the mean over its own tokens, which is that of the mean over
    all tokens divided by its share.
    """
    everywhere = context.accelerator.reduce
    mine = batch.response_mask.sum()
    share = float(mine / everywhere(mine, "sum"))
    return share, everywhere(share**2 * squares, "sum")
