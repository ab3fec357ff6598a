"""The lower part of a decoder as a module of its own, made of the very same blocks.

A loss on activations up to some block needs neither the blocks above nor the head. The part is a
view: a second decoder object around the same modules, with a shorter list of blocks and no final
norm. Nothing is copied, and the decoder itself is not touched, so nothing has to be put back after
an error and other threads may go on using it.
"""

from collections.abc import Sequence
from copy import copy

from torch import nn

from workbench.errors import ModelError


def shortened(
    decoder: nn.Module, blocks: Sequence[nn.Module], n: int, final_norm: nn.Module | None
) -> nn.Module:
    """A view of a decoder that runs its first `n` blocks and hands out the residual stream.

    Args:
        decoder: what runs the blocks.
        blocks: all of them, as the decoder holds them.
        n: how many to keep.
        final_norm: left out, because the full model never norms this stream.

    Raises:
        ModelError: the decoder does not hold the blocks in a list.
    """
    return with_blocks(decoder, blocks, blocks[:n], final_norm)


def with_blocks(
    decoder: nn.Module,
    blocks: Sequence[nn.Module],
    others: Sequence[nn.Module],
    final_norm: nn.Module | None,
) -> nn.Module:
    """A view of a decoder that runs other modules in place of its blocks, and no final norm.

    Raises:
        ModelError: the decoder does not hold the blocks in a list.
    """
    lists = {k: m for k, m in decoder.named_modules() if isinstance(m, nn.ModuleList)}
    path = next((k for k, m in lists.items() if [*map(id, m)] == [*map(id, blocks)]), None)
    if not path:
        raise ModelError(
            f"{type(decoder).__name__} no longer holds its {len(blocks)} blocks in one list, so it "
            "cannot stop after some of them; run the whole model instead."
        )
    view = with_part(decoder, path, nn.ModuleList(others))
    for name, module in decoder.named_modules():
        if name and module is final_norm:
            view = with_part(view, name, nn.Identity())
    return view


def with_part(module: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """A view of a module with another submodule at `path`; everything else is shared.

    Raises:
        ModelError: accelerate has bound the module's forward to the module itself.
    """
    if "forward" in vars(module):
        raise ModelError(
            f"{type(module).__name__} as a whole is dispatched by accelerate, which ties its "
            "forward to it, so it cannot stop early. Give each of its parts a place in device_map."
        )
    head, _, rest = path.partition(".")
    inner = module._modules[head]
    if rest and inner is not None:
        part = with_part(inner, rest, part)
    view = copy(module)
    view.__dict__["_modules"] = {**module._modules, head: part}
    return view
