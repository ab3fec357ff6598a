"""What a forward pass can be given: a `Batch`, or what a tokenizer returns."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.data import Batch
from workbench.errors import InvalidValueError

HOW = (
    'Give what tokenizer([...], return_tensors="pt", padding=True) returns, or '
    "workbench.encode(tokenizer, [workbench.Example(id, prompt, response)])"
)


def as_batch(given: Batch | Mapping[str, Any]) -> Batch:
    """The batch itself, or one of a tokenizer's output, in which no token counts as response.

    Anything but `input_ids` and `attention_mask` (token types, say) is left out.

    Raises:
        InvalidValueError: neither of them.
    """
    if isinstance(given, Batch):
        return given
    if not isinstance(given, Mapping):
        raise InvalidValueError(f"a {type(given).__name__} is no batch. {HOW}.")
    ids, mask = (given.get(name) for name in ("input_ids", "attention_mask"))
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor):
        found = ", ".join(f"{name} ({type(x).__name__})" for name, x in given.items()) or "nothing"
        raise InvalidValueError(
            f"a batch needs input_ids and attention_mask as tensors; given: {found}. {HOW}."
        )
    if ids.ndim != 2 or ids.shape != mask.shape:
        raise InvalidValueError(
            f"input_ids and attention_mask must both be [batch, pos], not {tuple(ids.shape)} and "
            f"{tuple(mask.shape)}. {HOW}."
        )
    real = mask.bool()
    return Batch(ids, real, torch.zeros_like(real), tuple(map(str, range(len(ids)))))
