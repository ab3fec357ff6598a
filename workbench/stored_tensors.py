"""Torch tensors to the types that recordings are stored in, and back."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from workbench.errors import InvalidValueError
from workbench.recording_manifest import Layout
from workbench.recordings import Recording

Dtype = Literal["bf16", "fp16", "fp32"]
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def read_torch(
    recording: Recording,
    site: str,
    *,
    step: int,
    example: str | Sequence[str] | None = None,
    rows: slice | None = None,
) -> Float[Tensor, "row d_model"]:
    """As `Recording.read`, as a tensor of the type that it is stored in.

    Raises:
        RecordingError: no such site, step or example; or the file is corrupt or truncated.
    """
    stored = recording.stored(site, step=step, example=example, rows=rows)
    if recording.manifest.dtype == "bf16":  # numpy has no such type
        return torch.from_numpy(stored.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(stored.copy())  # what was read belongs to an immutable buffer


def encoded(
    x: Float[Tensor, "row d_model"], dtype: str, site: str, layout: Layout
) -> Shaped[np.ndarray, "row d_model"]:
    """Numbers as they go to disk.

    Raises:
        InvalidValueError: a value is not finite, as it is or in this type; the message names the
            site and the first such example.
    """
    stored = x.detach().to("cpu", TORCH[dtype]).contiguous()
    if stored.numel() and not bool(torch.stack(stored.aminmax()).isfinite().all()):
        row = int((~stored.isfinite()).any(1).nonzero()[0])
        example = layout.examples[int(np.searchsorted(np.cumsum(layout.lengths), row, "right"))]
        largest = float(x.abs().max())
        if dtype == "fp16" and x.dtype != torch.float16 and np.isfinite(largest):
            raise InvalidValueError(
                f"{site} reaches {largest:.3g} in example {example!r}, beyond what fp16 can hold "
                "(65504). Record with dtype='bf16'."
            )
        narrow = " Or it is beyond what fp16 can hold (65504): try bf16." if dtype == "fp16" else ""
        raise InvalidValueError(
            f"{site} is not finite in example {example!r}. The weights hold NaN or infinity, or "
            f"the model overflows in its dtype: load it anew, or in fp32.{narrow}"
        )
    return (stored.view(torch.int16) if dtype == "bf16" else stored).numpy()
