"""Recording a fixed panel of examples while a model is being trained.

A `Recorder` is called with the model and the step at every optimiser step, from any loop. Training
with one and without gives the same weights to the last bit.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.positions import Positions, kept, kept_positions, mean_kept
from workbench.recording_writer import Dtype, RecordingWriter

__all__ = ["Dtype", "Positions", "Recorder", "RecordingWriter", "kept_positions"]


class Recorder:
    """Records a panel's activations at chosen sites, positions and optimiser steps.

    Args:
        folder: where the recording goes (format: `workbench.recordings`).
        panel: the examples, the same at every step.
        sites: patterns as in `HookedLM.resolve`.
        positions: which tokens are kept, as in `workbench.positions`.
        every: record at steps 0, every, 2·every, ...
        at: record at exactly these steps instead.
        dtype: type on the disk.
        model: digest of the start weights.
        tokenizer: hash of tokenizer and chat template.
        resume: continue an interrupted recording. Steps that it holds already are not recorded
            again: a run resumed from a checkpoint passes through the same weights once more.

    Raises:
        InvalidValueError: an empty panel, an example in it twice or without a token to keep.
        RecordingError: the folder holds a recording already, or one that cannot be continued.
    """

    def __init__(
        self,
        folder: Path | str,
        panel: Sequence[Batch],
        sites: Sequence[str] = ("resid_post",),
        *,
        positions: Positions = "last_prompt",
        every: int = 1,
        at: Container[int] | None = None,
        dtype: Dtype = "bf16",
        model: str | None = None,
        tokenizer: str | None = None,
        resume: bool = False,
    ):
        ids = [example for batch in panel for example in batch.examples]
        if not ids or len(set(ids)) < len(ids) or every < 1:
            raise InvalidValueError(
                f"a panel needs examples with different ids, and every must be at least 1; given "
                f"{len(ids)} examples with {len(set(ids))} ids, every={every}."
            )
        self._panel = [_needed(batch, kept_positions(batch, positions)) for batch in panel]
        self._mean, self._patterns = positions == "mean_response", tuple(sites)
        self._every, self._at = every, at
        self._open = partial(
            RecordingWriter,
            folder,
            positions=positions,
            dtype=dtype,
            model=model,
            tokenizer=tokenizer,
            resume=resume,
        )
        self._writer: RecordingWriter | None = None
        self._lm: HookedLM | None = None

    def __call__(self, model: HookedLM | nn.Module, step: int) -> bool:
        """Record if this step is due; whether it was recorded.

        Raises:
            SiteError: the model lacks a site.
        """
        due = step % self._every == 0 if self._at is None else step in self._at
        if not due:
            return False
        lm = self._hooked(model)
        if self._writer is None:
            self._writer = self._open(lm.resolve(*self._patterns))
        if step in self._writer.steps:
            return False
        with undisturbed(lm.model):
            for batch, keep in self._panel:
                self._record(self._writer, lm, step, batch, keep)
        self._writer.flush()
        return True

    def _hooked(self, model: HookedLM | nn.Module) -> HookedLM:
        if isinstance(model, HookedLM):
            return model
        if self._lm is None or self._lm.model is not model:
            with undisturbed(model):
                self._lm = HookedLM(model)
        return self._lm

    def _record(
        self, writer: RecordingWriter, lm: HookedLM, step: int, batch: Batch, keep: Tensor
    ) -> None:
        pick = mean_kept if self._mean else kept
        with lm.record(*writer.sites, select=lambda x, name: pick(x, keep.to(x.device))) as acts:
            lm(batch, **self._no_logits(lm))
        lengths = [1] * len(batch) if self._mean else keep.sum(1).tolist()
        writer.append(step, batch.examples, lengths, acts)

    def _no_logits(self, lm: HookedLM) -> dict[str, Any]:
        """Logits over the vocabulary are not needed: ask for one position's, where possible."""
        takes = signature(lm.parts.base.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def close(self) -> None:
        """Complete the recording."""
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        """Stop recording without completing it; every step recorded so far is readable."""
        if self._writer is not None:
            self._writer.abandon()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave random numbers and training modes as they were."""
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)), evaluating(model):
        yield


def _needed(
    batch: Batch, keep: Bool[Tensor, "batch pos"]
) -> tuple[Batch, Bool[Tensor, "batch kept_pos"]]:
    """Batch and mask up to the last kept token: a causal model's later ones cannot change it."""
    stop = int(keep.any(0).nonzero().max()) + 1
    ids, real, scored = batch.input_ids, batch.attention_mask, batch.response_mask
    cut = Batch(ids[:, :stop], real[:, :stop], scored[:, :stop], batch.examples)
    return cut, keep[:, :stop]
