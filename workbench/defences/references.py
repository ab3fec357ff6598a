"""Where the activations of a frozen reference come from: of the model as it was before training.

Three ways to the same numbers. With LoRA, the adapters are switched off, which needs no memory.
Without, a frozen copy is kept, which needs that of a second model; or what the run will read is
recorded once, before training, and then read back, which needs disk space instead and saves the
reference's forward passes.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch, Stream, Streams
from workbench.defences._rerouting import Rows
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit
from workbench.recording_writer import RecordingWriter
from workbench.recordings import Recording
from workbench.training import autocast

Kind = Literal["auto", "adapter", "copy", "recorded"]
"""`adapter`, `copy` or `recorded`; `auto` is the first if the training attached adapters, else the
second."""
Reference = Callable[[str, Batch], Rows]
"""What the reference gives on a batch of the stream of that name, without gradients."""


@dataclass(frozen=True)
class Reading:
    """Which activations are read of the batches of one stream."""

    sites: tuple[str, ...]
    """Canonical names."""
    blocks: int | None = None
    """How many blocks, from the first, have to run for that; None for all and the final norm."""

    def of(self, lm: HookedLM, batch: Batch, *, grad: bool = False) -> Rows:
        """Run the model on a batch; the rows of padding are left out."""
        real = batch.attention_mask.flatten().nonzero().squeeze(-1)

        def pick(x: Tensor, name: str) -> Tensor:
            return x.flatten(0, 1).index_select(0, real.to(x.device))

        with lm.record(*self.sites, grad=grad, select=pick, to=torch.float32) as acts:
            lm.stream(batch, self.blocks)
        return acts


def reference(
    kind: Kind,
    lm: HookedLM,
    readings: Mapping[str, Reading],
    streams: Streams,
    fit: Fit,
    *,
    own_adapters: bool = False,
) -> Reference:
    """The model as it is now, to be read while it is trained.

    Args:
        kind: where the activations come from.
        lm: the model, before its first step.
        readings: what will be read, by name of the stream.
        streams: what the training will draw; only recording needs it.
        fit: how long, and in which precision, it will train.
        own_adapters: whether the model got its adapters for this training. Without those that it
            came with it is another model than the start.

    Raises:
        InvalidValueError: adapters are to be switched off and there are none of the training's own,
            or an example to be recorded is not the same every time.
    """
    if kind == "adapter" and not own_adapters:
        raise InvalidValueError(
            "reference='adapter' switches off the LoRA adapters that training attached, and "
            "lora_rank is 0; adapters that the model came with are part of the start model. Set "
            "lora_rank, or use reference='copy' or 'recorded'."
        )
    if kind == "recorded":
        return Recorded(lm, readings, streams, fit)
    return adapter_off(lm, readings) if own_adapters and kind != "copy" else frozen(lm, readings)


def adapter_off(lm: HookedLM, readings: Mapping[str, Reading]) -> Reference:
    """The trained model itself, its adapters switched off, in evaluation mode."""

    def read(stream: str, batch: Batch) -> Rows:
        with evaluating(lm.model), lm.model.disable_adapter():
            return readings[stream].of(lm, batch)

    return read


def frozen(lm: HookedLM, readings: Mapping[str, Reading]) -> Reference:
    """A copy of the model as it is now."""
    start = HookedLM(deepcopy(lm.model).eval().requires_grad_(False), check=False)

    def read(stream: str, batch: Batch) -> Rows:
        with torch.no_grad():
            return readings[stream].of(start, batch)

    return read


class Recorded:
    """The model as it is now, recorded on every example that the training will draw.

    On the disk an activation takes 4 bytes · d_model for each real token of each distinct example
    and each site, in a folder of the system's temporary directory that goes when this object goes.

    Raises:
        InvalidValueError: two examples of one stream have the same id and different tokens.
        RecordingError: the disk is full.
    """

    def __init__(self, lm: HookedLM, readings: Mapping[str, Reading], streams: Streams, fit: Fit):
        self.folder = Path(tempfile.mkdtemp(prefix="reference-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._readings = readings
        self._recordings = {
            name: record(self.folder / name, lm, reading, new_rows(streams[name], fit), fit)
            for name, reading in readings.items()
        }

    def __call__(self, stream: str, batch: Batch) -> Rows:
        """What was recorded of these examples."""
        recording = self._recordings[stream]
        return {
            site: torch.from_numpy(
                np.concatenate([recording.read(site, step=0, example=x) for x in batch.examples])
            ).to(batch.input_ids.device)
            for site in self._readings[stream].sites
        }


def record(
    folder: Path, lm: HookedLM, reading: Reading, batches: Iterator[Batch], fit: Fit
) -> Recording:
    """Record batches in evaluation mode, in the precision of the training."""
    precision = autocast(fit.precision, lm.parts.device)
    writer = RecordingWriter(folder, reading.sites, positions="all", dtype="fp32")
    with writer, evaluating(lm.model), precision:
        for batch in batches:
            lengths = batch.attention_mask.sum(1).tolist()
            writer.append(0, batch.examples, lengths, reading.of(lm, batch))
    return Recording(folder)


def new_rows(stream: Stream, fit: Fit) -> Iterator[Batch]:
    """The examples that a training will draw from a stream, each once, in batches.

    Raises:
        InvalidValueError: an example's tokens are not the same every time.
    """
    seen: dict[str, list[int]] = {}
    for step in range(fit.steps):
        batch, new = stream.batch(step), []
        for i, (example, real) in enumerate(zip(batch.examples, batch.attention_mask, strict=True)):
            tokens = batch.input_ids[i, real].tolist()
            if example not in seen:
                new.append(i)
            if seen.setdefault(example, tokens) != tokens:
                raise InvalidValueError(
                    f"stream {stream.name!r} holds two examples with the id {example!r} and "
                    "different tokens, so what was recorded of one would be read for the other. "
                    "Give examples different ids, or use reference='copy'."
                )
        if new:
            yield from batch.rows(new).split(fit.micro_batch or len(new))
