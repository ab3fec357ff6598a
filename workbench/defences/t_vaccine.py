"""T-Vaccine: Vaccine in the layers that harmful data moves most.

Liu, Lin, Huang, Mo, Mu & Shen, "Targeted Vaccine: safety alignment for large language models
against harmful fine-tuning via layer-wise perturbation", arXiv 2024, arXiv:2410.09760.

Layers are scored now and then by the gradient of harmful answers, drawn in proportion to their
scores, and only those drawn are perturbed and trained; nothing below the lowest of them keeps
activations, which saves memory. Harmful answers score layers and never move a weight. The paper's
setting is LoRA r=8 α=4, AdamW lr 1e-3, weight decay 0.1, cosine, batch 10, 20 epochs.

As released, not as written: layers are drawn every 20 steps and scored every 200, on one harmful
example; drawing is without replacement, so only the first layer drawn has probability p exactly.
What is frozen differs between the two, see `freeze_policy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch, Streams
from workbench.defences._base import Family, TrainedDefence
from workbench.defences._freezing import from_lowest, of_blocks, only
from workbench.defences.vaccine import Vaccine, embedding_gradients, require_finite
from workbench.errors import InvalidValueError, SiteError, TrainingError
from workbench.training import Context, Losses, Mean, Objective


@dataclass(frozen=True, kw_only=True)
class TVaccine(TrainedDefence):
    """Align under the worst-case perturbation of a few layers, and train only those."""

    family: ClassVar[Family] = "representation"
    start = "base"
    streams = ("align", "harmful")
    scores: ClassVar[dict[str, Mean]] = {"align": Mean("align")}

    rho: float = 3.0
    """Norm of the perturbation over all active layers (ρ)."""
    active: int | None = None
    """How many layers are perturbed and trained at a time (S); None for a quarter of those that
    have the site, which is the paper's 8 of 32."""
    resample_every: int = 20
    """Optimiser steps between draws of the active layers (J)."""
    rescore_every: int = 200
    """Optimiser steps between scorings of all layers (K)."""
    score_rows: int = 1
    """Harmful examples that a scoring reads; more of them make it less noisy."""
    freeze_policy: Literal["strict", "official"] = "strict"
    """Who trains. `strict` (the paper's): active blocks alone. `official` (as released): everything
    from the lowest active block upwards, except the attention of blocks that are not active."""
    site: str = "attn_module_out"
    """Where layers are scored and perturbed: a site inside blocks. Blocks without it, in models
    that have attention in some of them only, are never drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 0:
            raise InvalidValueError(f"rho is a norm, so at least 0, not {self.rho}.")
        for name in ("active", "resample_every", "rescore_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"{name} must be at least 1, not {value}.")
        if not 1 <= self.score_rows <= self.fit.batch_size:
            raise InvalidValueError(
                f"score_rows must be between 1 and the batch size, {self.fit.batch_size}, not "
                f"{self.score_rows}."
            )

    @property
    def coupled(self) -> bool:
        """A norm over the micro-batch depends on what is in it."""
        return self.rho > 0

    def matched_control(self) -> "TVaccine":
        """The same layers drawn and trained, none of them perturbed: ρ = 0."""
        return replace(self, rho=0.0)

    def objective(self, lm: HookedLM, streams: Streams) -> Objective:
        """The step, once it is known that the model has layers enough.

        Raises:
            InvalidValueError: more active layers than layers.
            SiteError: no block has the site.
        """
        found = len(self.candidates(lm))
        if self.size(found) > found:
            raise InvalidValueError(
                f"active={self.active} layers are to be trained at a time, but the model has "
                f"{found} with {self.site!r}. Choose {found} or fewer."
            )
        return super().objective(lm, streams)

    def candidates(self, lm: HookedLM) -> dict[int, str]:
        """Canonical name of the site in every block that has it, by the block's number.

        Raises:
            SiteError: no block has it.
        """
        names = {i: f"blocks.{i}.hook_{self.site}" for i in range(lm.n_layers)}
        found = {i: name for i, name in names.items() if name in lm.sites}
        if not found:
            elsewhere = lm.resolve(self.site)  # says what there is if that is nothing at all
            raise SiteError(
                f"T-Vaccine draws blocks, so its site is one inside each, such as 'resid_post' or "
                f"'attn_module_out', and {self.site!r} stands for {', '.join(elsewhere)}. Give "
                "the short name of a site inside blocks."
            )
        return found

    def size(self, layers: int) -> int:
        """How many of so many layers are active."""
        return self.active or max(1, round(layers / 4))

    def backward(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Score and draw layers when due, then a step of Vaccine in those layers alone."""
        if context.step % self.rescore_every == 0:
            batch = batches["harmful"].rows(range(self.score_rows))
            context.memory["probability"] = self.probability(lm, batch, context).tolist()
        if context.step % self.resample_every == 0:
            wanted = self.size(len(self.candidates(lm)))
            context.memory["active"] = [float(i) for i in self.draw(context, wanted)]
        layers = active_layers(context)
        trained = of_blocks if self.freeze_policy == "strict" else from_lowest
        with only(lm.model, trained(lm, layers)):
            return super().backward(lm, {"align": batches["align"]}, context)

    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Vaccine's, in the active layers."""
        layers = active_layers(context)
        return Vaccine(rho=self.rho, site=self.site, layers=layers).loss(lm, batches, context)

    def probability(
        self, lm: HookedLM, batch: Batch, context: Context
    ) -> Float[Tensor, " n_layers"]:
        """p_l = s_l / Σ s, with s_l the norm of the loss's gradient at layer l.

        One entry a block, zero where a block lacks the site: an index is a block's number.

        Raises:
            TrainingError: a gradient is not finite, or too few layers have one.
        """
        blocks, device = self.candidates(lm), lm.parts.device
        sites = tuple(blocks.values())
        squares = torch.zeros(len(sites), device=device)
        # Dropout in here must not move the random numbers of the step itself.
        with only(lm.model, ()), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for part in batch.split(context.micro_batch or len(batch)):
                share = part.response_mask.sum() / batch.response_mask.sum()
                grads = embedding_gradients(lm, part, sites)
                squares += torch.stack([(share * grads[k].float()).norm() ** 2 for k in sites])
        # Equal but for rounding on all processes, and layers are drawn alike only if p is equal.
        squares = context.accelerator.reduce(squares, "mean")
        require_finite("T-Vaccine", squares)
        scores, wanted = squares.sqrt(), self.size(len(blocks))
        if (scores > 0).sum() < wanted:
            raise TrainingError(
                f"only {int((scores > 0).sum())} layers have a gradient on harmful data, too few "
                f"to draw {wanted}. Lower `active`, or raise `score_rows`."
            )
        p = torch.zeros(lm.n_layers, device=device)
        p[list(blocks)] = scores / scores.sum()
        return p

    def draw(self, context: Context, wanted: int) -> tuple[int, ...]:
        """Layers drawn one after the other, without replacement, in proportion to p; sorted."""
        probability = torch.tensor(context.memory["probability"], dtype=torch.float64)
        drawn = torch.multinomial(probability, wanted, generator=context.generator)
        return tuple(sorted(drawn.tolist()))


def active_layers(context: Context) -> tuple[int, ...]:
    """The layers drawn last."""
    return tuple(int(i) for i in context.memory["active"])
