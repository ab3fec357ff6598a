"""Recording a fixed panel of examples while a model is being trained.

A `Recorder` is called with the model and the step at every optimiser step, from any loop. Training
with one and without gives the same weights to the last bit. Where several processes share a model
(FSDP2), all of them call it: each takes part in the forward passes, the first one writes.
"""

from collections.abc import Container, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from workbench.activations import HookedLM
from workbench.closing import Closing
from workbench.data import Batch
from workbench.errors import InvalidValueError, RecordingError, WorkbenchError
from workbench.kept_rows import KeptRows, site_widths, tokens_digest, undisturbed, without_logits
from workbench.positions import Mask, Positions, kept_positions
from workbench.processes import from_first, is_first
from workbench.recording_budget import Estimate
from workbench.recording_manifest import require_sites
from workbench.recording_writer import RecordingWriter
from workbench.stored_tensors import Dtype

__all__ = ["Dtype", "Mask", "Positions", "Recorder", "RecordingWriter", "kept_positions"]


class Recorder(Closing):
    """Records a panel's activations at chosen sites, positions and optimiser steps.

    An error while it records ends the recording: the steps before are readable, and another
    recorder with `resume=True` goes on from them.

    Args:
        folder: where the recording goes (format: `workbench.recordings`).
        panel: the examples, the same at every step.
        sites: patterns as in `HookedLM.resolve`.
        positions: which tokens are kept, as in `workbench.positions`, or a `Mask`.
        every: record at steps 0, every, 2·every, ...
        at: record at exactly these steps instead.
        dtype: type on the disk.
        model: digest of the start weights.
        tokenizer: hash of tokenizer and chat template.
        texts: identity of the panel's texts (`PromptSet.identity`).
        max_bytes: refuse to begin what will be larger, and never write more. How many steps there
            will be is known of a list `at`; otherwise the first step alone is counted beforehand.
        resume: continue an interrupted recording. Steps that it holds already are not recorded
            again: a run resumed from a checkpoint passes through the same weights once more.

    Raises:
        InvalidValueError: an empty panel, an example in it twice or without a token to keep; no
            sites.
        RecordingError: the folder holds a recording already, or one that cannot be continued.
    """

    def __init__(
        self,
        folder: Path | str,
        panel: Sequence[Batch],
        sites: Sequence[str] = ("resid_post",),
        *,
        positions: Positions | Mask = "last_prompt",
        every: int = 1,
        at: Container[int] | None = None,
        dtype: Dtype = "bf16",
        model: str | None = None,
        tokenizer: str | None = None,
        texts: dict[str, Any] | None = None,
        max_bytes: int | None = None,
        resume: bool = False,
    ):
        ids = [example for batch in panel for example in batch.examples]
        if not ids or len(set(ids)) < len(ids) or every < 1:
            raise InvalidValueError(
                f"a panel needs examples with different ids, and every must be at least 1; given "
                f"{len(ids)} examples with {len(set(ids))} ids, every={every}."
            )
        require_sites(sites)
        self._parts = [KeptRows.of(batch, positions) for batch in panel]
        self._patterns, self._dtype, self._max_bytes = tuple(sites), dtype, max_bytes
        self._every, self._at = every, at
        self._open = partial(
            RecordingWriter,
            folder,
            positions=positions,
            dtype=dtype,
            model=model,
            tokenizer=tokenizer,
            panel=texts,
            tokens=tokens_digest(panel),
            max_bytes=max_bytes,
            resume=resume,
        )
        self._writer: RecordingWriter | None = None
        self._done: set[int] | None = None
        self._lm: HookedLM | None = None

    def __call__(self, model: HookedLM | nn.Module, step: int) -> bool:
        """Record if this step is due; whether it was recorded.

        Raises:
            SiteError: the model lacks a site.
            InvalidValueError: more bytes than allowed, or activations that are not finite.
            RecordingError: the recording cannot be begun, continued or written.
        """
        due = step % self._every == 0 if self._at is None else step in self._at
        if not due:
            return False
        lm = self._hooked(model)
        sites = lm.resolve(*self._patterns)
        if self._done is None:
            self._done = self._begin(lm, sites)
        if step in self._done:
            return False
        try:
            self._record(lm, sites, step)
        except BaseException:  # out of memory or Ctrl-C, too: half a step must never be flushed
            self.abandon()
            raise
        self._done.add(step)
        return True

    def _record(self, lm: HookedLM, sites: tuple[str, ...], step: int) -> None:
        """Every process reads, the first one writes; what it refuses, all refuse."""
        refused: WorkbenchError | None = None
        with undisturbed(lm.model):
            for part in self._parts:
                acts = part.rows(lm, sites, self._dtype, partial(lm, **without_logits(lm)))
                if self._writer is not None and refused is None:
                    try:
                        self._writer.append(step, part.batch.examples, part.lengths, acts)
                    except WorkbenchError as error:  # the others are in the next forward pass
                        refused = error
        if self._writer is not None and refused is None:
            try:
                self._writer.flush()
            except WorkbenchError as error:
                refused = error
        told = from_first("" if refused is None else str(refused))
        if refused is not None:
            raise refused
        if told:
            raise RecordingError(f"the first process cannot record: {told}")

    def estimate(self, model: HookedLM | nn.Module, steps: int = 1) -> Estimate:
        """How many bytes so many recorded steps will take."""
        lm = self._hooked(model)
        widths = site_widths(lm, lm.resolve(*self._patterns))
        rows = sum(sum(part.lengths) for part in self._parts)
        examples = sum(len(part.batch) for part in self._parts)
        return Estimate(widths, examples, rows, steps, self._dtype)

    def _begin(self, lm: HookedLM, sites: tuple[str, ...]) -> set[int]:
        """Open the recording in the first process; the steps that it holds, in all."""
        if self._max_bytes is not None:
            steps = len(self._at) if isinstance(self._at, Sized) else 1
            self.estimate(lm, steps).require(self._max_bytes)
        refused, done = "", set[int]()
        if is_first():
            try:
                self._writer = self._open(sites)
                done = set(self._writer.steps)
            except WorkbenchError as error:
                from_first((str(error), done))  # the others would wait for the next forward pass
                raise
        refused, done = from_first((refused, done))
        if refused:
            raise RecordingError(f"the first process cannot record: {refused}")
        return done

    def _hooked(self, model: HookedLM | nn.Module) -> HookedLM:
        if isinstance(model, HookedLM):
            return model
        if self._lm is None or self._lm.model is not model:
            with undisturbed(model):
                self._lm = HookedLM(model)
        return self._lm

    def close(self) -> None:
        """Complete the recording.

        Raises:
            RecordingError: an error has ended it, or the disk is full.
        """
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        """Stop recording without completing it; every step recorded so far is readable."""
        if self._writer is not None:
            self._writer.abandon()
