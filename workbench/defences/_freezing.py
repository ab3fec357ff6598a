"""Training some blocks of a model at a time: which parameters, and for how long."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from workbench.activations import HookedLM
from workbench.activations.sites import block_ports


@contextmanager
def same_flags(model: nn.Module) -> Iterator[dict[nn.Parameter, bool]]:
    """Afterwards each parameter requires a gradient, or not, as before; yields which do."""
    before = {p: p.requires_grad for p in model.parameters()}
    try:
        yield before
    finally:
        for p, was in before.items():
            p.requires_grad_(was)


@contextmanager
def only(model: nn.Module, trained: Collection[nn.Parameter]) -> Iterator[None]:
    """Inside, no parameter but these requires a gradient; afterwards each is as it was.

    A parameter that was frozen before stays so.
    """
    with same_flags(model) as before:
        for p, was in before.items():
            p.requires_grad_(was and p in trained)
        yield


def of_blocks(lm: HookedLM, layers: Sequence[int]) -> set[nn.Parameter]:
    """The parameters of some blocks."""
    return {p for i in layers for p in lm.parts.blocks[i].parameters()}


def from_lowest(lm: HookedLM, layers: Sequence[int]) -> set[nn.Parameter]:
    """All parameters, except those below the lowest of these blocks and other blocks' attention.

    Block 0 has nothing below it but the embedding, which then trains. A head that is tied to the
    embedding is frozen with it: through it the gradient would go all the way down.
    """
    blocks, lowest = lm.parts.blocks, min(layers)
    ports = [block_ports(block)["attn_module_out"] for block in blocks]
    idle = [module for i, (_, module) in enumerate(ports) if i not in layers]
    if lowest == 0:
        return _parameters(lm.model) - _parameters(*idle)
    upper = (*blocks[lowest:], lm.parts.final_norm, lm.parts.base.get_output_embeddings())
    return _parameters(*upper) - _parameters(*idle, lm.parts.embed)


def _parameters(*modules: nn.Module | None) -> set[nn.Parameter]:
    return {p for module in modules if module is not None for p in module.parameters()}
