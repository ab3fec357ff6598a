"""What a model would say from a hidden state: its final norm and head, at any layer.

The logits of a batch are its largest tensors: positions × vocabulary. Here the decoder runs without
its head, the head reads chosen positions, and a loss on the logits recomputes them in backward, so
no vocabulary-sized tensor outlives the call that made it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.activations import HookedLM, evaluating
from workbench.activations.engine import instead
from workbench.data import Batch
from workbench.errors import ModelError

N_TOKENS = 8
TOLERANCE = 1e-3
"""Allowed error relative to the logits' norm; another head is wrong by a large share of it."""


@dataclass(frozen=True)
class ReadOut:
    """A model's final norm and head, with what its family does to logits after them.

    Contexts of `record` and `intervene` that are open do not see or change a read-out.
    """

    norm: nn.Module
    head: nn.Module
    vocabulary: int
    """How many logits there are."""
    scale: float = 1.0
    """Logits are multiplied by this (Cohere, Granite)."""
    softcap: float | None = None
    """Logits are squeezed into (−softcap, softcap) by a hyperbolic tangent (Gemma 2)."""

    def __call__(
        self, hidden: Float[Tensor, "*pos d_model"], *, normed: bool = False
    ) -> Float[Tensor, "*pos vocab"]:
        """The logits of hidden states.

        Args:
            hidden: the residual stream after any block, or before the first one.
            normed: the final norm has been applied already, as in `ln_final.hook_out`.
        """
        with instead((), ()):
            return self.finish(self.head(hidden if normed else self.norm(hidden)))

    def finish(self, logits: Float[Tensor, "*pos part"]) -> Float[Tensor, "*pos part"]:
        """What the family does to what its head gives: scale, then soft cap; entry by entry."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def nll(
        self,
        hidden: Float[Tensor, "pos d_model"],
        targets: Int[Tensor, " pos"],
        *,
        normed: bool = False,
        chunk: int | None = None,
    ) -> Float[Tensor, " pos"]:
        """Negative log-likelihood of one target a position (nats), in fp32 or wider.

        Nothing of the size of the vocabulary is kept for backward, which computes the logits anew.

        Args:
            hidden: as in `__call__`, one state for each target.
            targets: the token that each state should predict.
            normed: as in `__call__`.
            chunk: at most so many positions at a time; None for all at once.
        """
        size = chunk or max(len(targets), 1)
        parts = [
            checkpoint(self._nll, *part, normed, use_reentrant=False, preserve_rng_state=False)
            for part in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return torch.cat(parts)

    def _nll(self, hidden: Tensor, targets: Tensor, normed: bool) -> Tensor:
        logits = self(hidden, normed=normed)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return nn.functional.cross_entropy(wide, targets, reduction="none")


def read_out(lm: HookedLM) -> ReadOut:
    """The read-out of a model; proved once on a few dummy tokens (one short forward pass).

    Raises:
        ModelError: the model has no final norm or no head, or its own logits are not reproduced.
    """
    if lm not in _FOUND:
        _FOUND[lm] = _find(lm)
    return _FOUND[lm]


_FOUND: WeakKeyDictionary[HookedLM, ReadOut] = WeakKeyDictionary()


def _find(lm: HookedLM) -> ReadOut:
    """The first way of reading out that gives the model's own logits."""
    base, norm = lm.parts.base, lm.parts.final_norm
    head = base.get_output_embeddings()
    if norm is None or head is None:
        lacking = "final norm" if norm is None else "head (output embeddings)"
        raise ModelError(
            f"{type(base).__name__} has no {lacking} that is known, so nothing can be read out of "
            "its hidden states. Give a causal LM that ends in a norm and a linear head."
        )
    batch = _dummy(base.config.get_text_config().vocab_size)
    last = f"resid_post.{lm.n_layers - 1}"
    quiet = torch.autocast(lm.parts.device.type, enabled=False)
    with evaluating(lm.model), quiet, instead((), ()), lm.record(last) as acts:
        own = lm(batch).logits
        if not torch.isfinite(own).all():
            raise ModelError(
                f"the logits of {type(base).__name__} are not finite, so nothing can be read out. "
                "Its weights hold NaN or infinity, or overflow: load it anew, or in fp32."
            )
        final = lm.stream(batch)
        (stream,) = acts.values()
        for scale, softcap in _candidates(base.config.get_text_config()):
            read = ReadOut(norm, head, own.shape[-1], scale, softcap)
            if final.shape != stream.shape:
                break  # a projection stands between them and the head (OPT)
            if same(read(stream), own) and same(read(final, normed=True), own):
                return read
    raise ModelError(
        f"the logits of {type(base).__name__} are not those of its final norm and head (nor scaled "
        "or soft-capped as its config says), so hidden states cannot be read out. Methods and "
        "probes that read logits at inner layers do not support this family."
    )


def _candidates(config: Any) -> Iterator[tuple[float, float | None]]:
    """What a config may mean, most likely first: (scale, softcap)."""
    scales = [getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier")]
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        scales += [1 / divisor, divisor]  # Granite divides by it, HyperCLOVA X multiplies
    caps = [getattr(config, "final_logit_softcapping", None), None]
    named = [float(scale) for scale in scales if isinstance(scale, int | float)] or [1.0]
    yield from product(named, dict.fromkeys(caps))


def same(ours: Float[Tensor, "..."], own: Float[Tensor, "..."]) -> bool:
    """Equal but for rounding. NaN equals nothing."""
    if ours.shape != own.shape:
        return False
    allowed = max(TOLERANCE, 4 * torch.finfo(own.dtype).eps)
    return bool((ours - own).float().norm() <= allowed * own.float().norm())


def _dummy(vocabulary: int) -> Batch:
    ids = torch.arange(3, 3 + N_TOKENS)[None] % vocabulary
    every = torch.ones_like(ids, dtype=torch.bool)
    return Batch(ids, every, every, ("dummy",))
