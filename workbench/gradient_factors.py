"""Gradients of weight matrices by their factors, so that none in a matrix's shape is ever built.

The gradient of a linear layer's weight is Σ_t δ_t x_tᵀ, of an embedding's Σ_t e_{v_t} δ_tᵀ, with
inputs x (or token ids v) and gradients δ at the output. Inner products of two such gradients are

    ⟨Σ_s δ_s x_sᵀ, Σ_t δ'_t x'_tᵀ⟩ = Σ_{s,t} (x_s · x'_t)(δ_s · δ'_t),

the ghost norm of Goodfellow, "Efficient per-example gradient computations", 2015, arXiv:1510.01799,
and Li, Tramèr, Liang & Hashimoto, ICLR 2022, arXiv:2110.05679. One-hot rows e_v stand for ids.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workbench.activations import HookedLM
from workbench.errors import ModelError

EMBED, HEAD, OTHER, TOTAL = "embed", "head", "other", "total"


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a layer that owns parameters, as the forward pass made it."""

    module: nn.Module
    input: Tensor
    """`[*pos, d_in]`, or token ids `[*pos]`; outside the graph."""
    output: Tensor
    """Inside the graph."""

    @property
    def matrix(self) -> nn.Parameter | None:
        """The weight whose gradient has the factors `input` and δ; None of an unknown kind."""
        module: Any = self.module
        plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        known = plain or isinstance(module, Conv1D) or self.scale is not None
        return module.weight if known else None

    @property
    def bias(self) -> nn.Parameter | None:
        """What is added to every output of such a layer."""
        return None if self.matrix is None else getattr(self.module, "bias", None)

    @property
    def is_lookup(self) -> bool:
        """Whether the input is token ids."""
        return isinstance(self.module, nn.Embedding)

    @property
    def scale(self) -> float | None:
        """What an embedding's rows are multiplied by (Gemma); None if it does something else."""
        module = self.module
        if not isinstance(module, nn.Embedding) or module.max_norm or module.scale_grad_by_freq:
            return None
        rows = nn.functional.embedding(self.input, module.weight).detach()
        scale = float(getattr(module, "embed_scale", 1.0))
        same = rows.shape == self.output.shape and torch.allclose(self.output, rows * scale)
        return scale if same else None

    def lookup_delta(self, delta: Float[Tensor, "*b pos d"]) -> Float[Tensor, "*b pos d"]:
        """Gradients at an embedding's rows from those at its output; none at the padding token."""
        padding = getattr(self.module, "padding_idx", None)
        if padding is not None:
            delta = delta * (self.input.reshape(-1) != padding)[:, None]
        return delta * (self.scale or 1.0)


@contextmanager
def recorded_uses(model: nn.Module, wanted: Collection[nn.Parameter]) -> Iterator[list[Use]]:
    """Note every call, inside the context, of a module that owns some of these parameters itself.

    Calls with anything but one tensor as their only argument are left out.
    """
    uses: list[Use] = []
    ids = set(map(id, wanted))

    def note(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(output, Tensor):
            uses.append(Use(module, given[0].detach(), output))

    owners = [m for m in model.modules() if any(id(p) in ids for p in m.parameters(recurse=False))]
    handles = [module.register_forward_hook(note) for module in owners]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def differentiable(model: nn.Module, *, frozen: bool) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters that gradients are taken of, by name; each tied tensor once.

    Args:
        model: whose.
        frozen: also those that do not require gradients, which do as long as the context is open.

    Raises:
        ModelError: there are none.
    """
    wanted = {
        name: p
        for name, p in model.named_parameters()
        if p.is_floating_point() and (frozen or p.requires_grad)
    }
    if not wanted:
        raise ModelError(
            "no parameter of this model requires gradients, so none has a gradient norm. Ask for "
            "frozen=True to look at frozen parameters too."
        )
    switched = [p for p in wanted.values() if not p.requires_grad]
    for p in switched:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield wanted
    finally:
        for p in switched:
            p.requires_grad_(False)


def parts_of(lm: HookedLM, wanted: Iterable[nn.Parameter]) -> dict[int, str]:
    """Part of the model that each parameter belongs to, by its `id`.

    `embed` (a tied head too), `block.0`, ..., `head` (final norm and head); `other` for the rest.
    """
    parts = lm.parts
    named: list[tuple[str, nn.Module | None]] = [(EMBED, parts.embed)]
    named += [(f"block.{i}", block) for i, block in enumerate(parts.blocks)]
    named += [(HEAD, parts.final_norm), (HEAD, parts.base.get_output_embeddings())]
    decoder = parts.base.get_decoder()
    named += [(EMBED, m) for m in decoder.children() if isinstance(m, nn.Embedding)]
    places: dict[int, str] = {}
    for part, module in named:
        for p in module.parameters() if module is not None else ():
            places.setdefault(id(p), part)
    return {id(p): places.get(id(p), OTHER) for p in wanted}


def gram(x: Tensor, y: Tensor) -> Float[Tensor, "s t"]:
    """Inner products of the inputs of two uses: vectors, or token ids, which are one-hot rows."""
    if not x.is_floating_point():
        return (x[:, None] == y[None, :]).float()
    return wide(x) @ wide(y).T


def wide(x: Tensor) -> Tensor:
    """In fp32, or in fp64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
