"""LoRA adapters on any causal LM: attach, and merge back into a plain model.

Hu et al., ICLR 2022, arXiv:2106.09685, through the peft library.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.activations.sites import anatomy
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.read_only import refuse_read_only


def with_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Freeze a model and add adapters BA·(alpha / rank) in place; B starts at zero.

    Args:
        model: any Hugging Face causal LM; its linear layers are wrapped in place.
        rank: width of the adapters.
        alpha: numerator of their scale.
        targets: ends of module names (`q_proj`); None for every linear layer of the blocks.
        dropout: on the adapters' input.
        seed: of A's random start; torch's global generator is not moved.

    Raises:
        InvalidValueError: a rank below 1, a scale or dropout out of range, or the model has
            adapters already.
        UnknownNameError: a target that names no linear layer.
    """
    if rank < 1:
        raise InvalidValueError(f"the rank of an adapter is at least 1, not {rank}.")
    if not (alpha > 0 and 0 <= dropout < 1):
        raise InvalidValueError(
            "an adapter's alpha is above 0 and its dropout at least 0 and below 1, "
            f"not {alpha} and {dropout}."
        )
    refuse_read_only(model, "adding adapters")
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InvalidValueError(
            "adapters were to be added to a model that has adapters already. Merge those into its "
            "weights first (workbench.adapters.merge_lora), or set lora_rank=0 to train what is "
            "trainable of it, its own adapters."
        )
    found = linear_layers(model)
    for target in targets or ():
        if not any(name.split(".")[-1] == target or name == target for name in found):
            raise UnknownNameError("linear layer", target, {name.split(".")[-1] for name in found})
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets or found),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in found.values()),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


@contextmanager
def merged_afterwards(model: nn.Module, **settings: Any) -> Iterator[nn.Module]:
    """`with_lora` for the time of a training; however that ends, the model is a plain one again.

    Its weights are then those that the adapted model had, which is what training in place leaves
    without adapters, too.
    """
    adapted = with_lora(model, **settings)
    try:
        yield adapted
    finally:
        merge_lora(adapted)


def merge_lora(model: Any) -> nn.Module:
    """Fold adapters into the weights; the result is a plain Hugging Face model, all trainable."""
    refuse_read_only(model, "merging adapters")
    return model.merge_and_unload().requires_grad_(True)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer inside the blocks, by full name (GPT-2's Conv1D counts as one)."""
    blocks = set(anatomy(model).blocks)
    return {
        f"{outer}.{inner}": module
        for outer, block in model.named_modules()
        if block in blocks
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
