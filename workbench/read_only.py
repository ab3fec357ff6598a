"""Models that can be read but not trained: quantised weights, and weights that are offloaded.

Recording, probing and generating go on as ever. What would change the weights, or fold something
into them, is refused at the door: an 8- or 4-bit weight has no gradient of its own, and gradients
of weights that live on disk are dropped without a word.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn

from workbench.errors import ModelError

LIBRARIES = ("bitsandbytes", "torchao", "optimum", "quanto", "hqq", "gptqmodel", "awq")
"""Whose tensors and layers hold quantised weights."""


def refuse_read_only(model: nn.Module, doing: str) -> None:
    """Meet a model whose weights cannot be changed before anything is done to it.

    Raises:
        ModelError: the weights are quantised or offloaded; the message says which, and what to do.
    """
    if (how := quantisation(model)) is not None:
        raise ModelError(
            f"{doing} needs full-precision weights, and these are quantised ({how}). Quantised "
            "models are read-only here: record, probe and generate. Load it in bf16 or fp32."
        )
    if gone := offloaded(model):
        raise ModelError(
            f"{doing} needs all weights in memory, and {len(gone)} tensors are offloaded "
            f"({gone[0]}, ...). Offloaded models are read-only here: record, probe and generate. "
            "Load it without device_map, or on devices that hold it whole."
        )


def quantisation(model: nn.Module) -> str | None:
    """How a model's weights are quantised, in a few words; None if they are not.

    Says so if transformers does, if a layer or tensor belongs to a library for it, or if a weight
    has fewer than 16 bits.
    """
    peft_base = getattr(model, "get_base_model", None)
    base: Any = peft_base() if callable(peft_base) else model
    quantiser = getattr(base, "hf_quantizer", None)
    if quantiser is not None:
        method = getattr(quantiser.quantization_config, "quant_method", type(quantiser).__name__)
        return str(getattr(method, "value", method))
    for module in base.modules():
        if is_foreign(module) or type(module).__module__.startswith("torch.ao.nn"):
            return f"{type(module).__module__}.{type(module).__name__}"
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and (is_foreign(tensor) or (is_narrow(tensor, name))):
                return f"{type(tensor).__name__} of {tensor.dtype}"
    return None


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a model's `state_dict` holds, in the order of names, whatever it is made of.

    Offloaded tensors are fetched one at a time; a quantised one is given as its parts.
    """
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.device.type != "meta":
            yield from parts_of(name, tensor)
            continue
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        with align_module_device(module, execution_device="cpu"):
            yield name, getattr(module, leaf)


def parts_of(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor, or the plain tensors inside one of another class (torchao's)."""
    if not is_foreign(tensor) or not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from parts_of(f"{name}.{part}", getattr(tensor, part))


def is_foreign(thing: object) -> bool:
    """Whether a layer or tensor belongs to a library for quantisation."""
    return type(thing).__module__.partition(".")[0] in LIBRARIES


def is_narrow(tensor: torch.Tensor, name: str) -> bool:
    """Whether a tensor is a weight of fewer than 16 bits."""
    return "weight" in name and tensor.dtype.itemsize < 2 and tensor.dtype != torch.bool


def offloaded(model: nn.Module) -> list[str]:
    """Names of the weights that accelerate keeps on the CPU or on disk until they are needed."""
    return [name for name, p in model.named_parameters() if p.device.type == "meta"]


def input_device(model: Any) -> torch.device:
    """Where token ids have to be: weights that are offloaded are nowhere in between."""
    embed = model.get_input_embeddings()
    there = getattr(getattr(embed, "_hf_hook", None), "execution_device", None)
    return next(embed.parameters()).device if there is None else torch.device(there)
