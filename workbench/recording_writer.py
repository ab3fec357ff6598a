"""Writing a recording: rows of activations, site by site, durable up to the last flush."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from workbench.closing import Closing
from workbench.errors import InvalidValueError, RecordingError, RunError, WorkbenchWarning
from workbench.files import PARTIAL, Lock, in_the_way
from workbench.positions import Mask, Positions
from workbench.recording_manifest import (
    MANIFEST,
    Layout,
    Manifest,
    load_manifest,
    require_same,
    row_file,
    save_manifest,
)
from workbench.recordings import WRITER, lost
from workbench.row_files import HEADER_BYTES, RowFile, RowWriter
from workbench.stored_tensors import TORCH, Dtype, encoded

__all__ = ["TORCH", "Dtype", "RecordingWriter"]


class RecordingWriter(Closing):
    """Writes a recording (format: `recordings`), durable up to the last `flush`.

    One writer at a time: it holds a lock that dies with its process.

    Args:
        folder: made if it does not exist.
        sites: names of the activations.
        positions: which tokens the rows are, for the reader.
        dtype: type on the disk. bf16 has the range of fp32, fp16 three more bits.
        model: digest of the start weights.
        tokenizer: hash of tokenizer and chat template.
        panel: identity of the texts (`PromptSet.identity`).
        cut: how many tokens of a text are read at most.
        tokens: digest of the token ids that are read.
        max_bytes: refuse rows beyond this many bytes.
        resume: continue a recording with the same description, from its last flush; what a killed
            writer left behind it is dropped, with a warning.

    Raises:
        RecordingError: there is a recording already, or it does not fit the description; the
            folder is a file or lies in one, holds other files, cannot be written, or another writer
            is at work in it.
    """

    def __init__(
        self,
        folder: Path | str,
        sites: Sequence[str],
        *,
        positions: Positions | Mask,
        dtype: Dtype = "bf16",
        model: str | None = None,
        tokenizer: str | None = None,
        panel: dict[str, Any] | None = None,
        cut: int | None = None,
        tokens: str | None = None,
        max_bytes: int | None = None,
        resume: bool = False,
    ):
        self.folder = Path(folder)
        self.sites = tuple(sites)
        self.manifest = Manifest(str(positions), dtype, model, tokenizer, panel, cut, tokens)
        self.dropped = ""
        """What was dropped when an interrupted recording was continued, in words."""
        self._max_bytes, self._bytes = max_bytes, 0
        self._writers: dict[str, RowWriter] = {}
        self._lock = Lock(self.folder / WRITER)
        self._open = True
        with self._writing():
            if file := in_the_way(self.folder):
                raise RecordingError(
                    f"{file} is a file. A recording is a folder: choose another name."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise RecordingError(
                    f"{self.folder} is being written by {self._lock.holder()}. Wait for it, or "
                    "choose another folder."
                )
        try:
            self._begin(resume)
        except BaseException:
            self.abandon()
            raise

    def _begin(self, resume: bool) -> None:
        if (self.folder / MANIFEST).exists():
            self._continue(resume)
        else:
            others = sorted(x.name for x in self.folder.iterdir() if not x.name.startswith("."))
            if others:
                raise RecordingError(
                    f"{self.folder} is not empty and holds no recording: {', '.join(others[:5])}. "
                    "Choose another folder."
                )
        for half in self.folder.glob(PARTIAL + "*"):  # of a writer that was killed
            half.unlink(missing_ok=True)
        self._layouts = {layout: i for i, layout in enumerate(self.manifest.layouts)}
        self._seen: dict[int, set[str]] = {}
        for step, at in self.manifest.entries:
            self._seen.setdefault(step, set()).update(self.manifest.layouts[at].examples)
        with self._writing():
            save_manifest(self.folder, self.manifest)

    def _continue(self, resume: bool) -> None:
        if not resume:
            raise RecordingError(
                f"{self.folder} already holds a recording. Choose another folder, or continue it "
                "with resume=True."
            )
        old = load_manifest(self.folder)
        require_same(self.folder, old, self.manifest, self.sites)
        self.manifest = replace(old, complete=False)
        if not old.sites:
            self._clear()
        self._repair(old)

    def _clear(self) -> None:
        """Remove the files of a writer that was killed before its first flush."""
        with self._writing():
            for path in self.folder.glob("*.safetensors"):
                with path.open("rb") as file:
                    head = int.from_bytes(file.read(8), "little")
                if head in (0, HEADER_BYTES - 8):  # empty or a row file: not a stranger's
                    path.unlink()

    def _repair(self, old: Manifest) -> None:
        """Go back to the last flush."""
        files = {site: row_file(self.folder, old, site) for site in old.sites}
        written = 8 * len(old.offsets()) if old.complete else 0
        torn = sum(max(0, file.beyond() - written) for file in files.values())
        with self._writing():
            save_manifest(self.folder, self.manifest)  # not complete, before offsets are cut off
            for site, file in files.items():
                self._writers[site] = RowWriter(file)
                self._bytes += file.rows * file.row_bytes
        if torn:
            self.dropped = lost(torn)
            warnings.warn(
                f"{self.folder} was interrupted and is continued from its last flush, after "
                f"{old.rows} rows. {self.dropped}",
                WorkbenchWarning,
                stacklevel=4,
            )

    @property
    def steps(self) -> frozenset[int]:
        """Steps recorded so far."""
        return frozenset(step for step, _ in self.manifest.entries)

    def append(
        self,
        step: int,
        examples: Sequence[str],
        lengths: Sequence[int],
        acts: Mapping[str, Float[Tensor, "row d_model"]],
    ) -> None:
        """Add the rows of some examples at one optimiser step: `lengths[i]` rows of example i.

        Raises:
            InvalidValueError: sites, lengths and rows do not fit together, an example was recorded
                at this step before, or a value is not finite or too large for fp16.
            RecordingError: more bytes than allowed, or the disk is full.
        """
        layout = Layout(tuple(examples), tuple(lengths))
        self._check(step, layout, acts)
        stored = {site: encoded(acts[site], self.manifest.dtype, site, layout) for site in acts}
        self._append(step, layout, stored)

    def append_stored(
        self,
        step: int,
        examples: Sequence[str],
        lengths: Sequence[int],
        stored: Mapping[str, Shaped[np.ndarray, "row d_model"]],
    ) -> None:
        """As `append`, of rows that are in the type on the disk already (`Recording.stored`)."""
        layout = Layout(tuple(examples), tuple(lengths))
        self._check(step, layout, stored)
        self._append(step, layout, stored)

    def _append(self, step: int, layout: Layout, stored: Mapping[str, np.ndarray]) -> None:
        size = sum(rows.nbytes for rows in stored.values())
        if self._max_bytes is not None and self._bytes + size > self._max_bytes:
            self.abandon()
            raise RecordingError(
                f"{self.folder} holds {self._bytes} bytes of activations; {size} more would pass "
                f"the limit of {self._max_bytes}. What was flushed is safe. Allow more "
                "(max_bytes), or record fewer sites, positions or steps, or in bf16."
            )
        with self._writing():
            for site in self.sites:
                self._writer(site, stored[site].shape[1]).append(stored[site])
            if layout not in self._layouts:
                self._layouts[layout] = len(self._layouts)
                self.manifest.layouts.append(layout)
            self.manifest.entries.append((step, self._layouts[layout]))
            self.manifest.rows += sum(layout.lengths)
            self._seen.setdefault(step, set()).update(layout.examples)
            self._bytes += size

    def _check(self, step: int, layout: Layout, acts: Mapping[str, Any]) -> None:
        self._require_open()
        shapes = {site: tuple(x.shape) for site, x in acts.items()}
        if set(shapes) != set(self.sites):
            raise InvalidValueError(
                f"given activations of {', '.join(shapes)}; this recording is of "
                f"{', '.join(self.sites)}."
            )
        rows = sum(layout.lengths)
        widths = {site: writer.target.width for site, writer in self._writers.items()}
        fits = all(n == rows and widths.get(s, d) == d for s, (n, d) in shapes.items())
        if not fits or len(layout.examples) != len(layout.lengths):
            raise InvalidValueError(
                f"{len(layout.examples)} examples of {list(layout.lengths)} rows do not fit "
                f"activations of shapes {shapes} (widths so far: {widths or 'none'})."
            )
        self._check_new(step, layout.examples)

    def _check_new(self, step: int, examples: Sequence[str]) -> None:
        seen = self._seen.get(step, set())
        if len(set(examples)) == len(examples) and seen.isdisjoint(examples):
            return
        twice = next(name for name in examples if name in seen or examples.count(name) > 1)
        raise InvalidValueError(f"example {twice!r} is recorded twice at step {step}.")

    def _require_open(self) -> None:
        if not self._open:
            raise RecordingError(
                f"{self.folder}: its writer was closed or interrupted, so nothing can be added. "
                "What was flushed before is safe; continue with resume=True."
            )

    def _writer(self, site: str, width: int) -> RowWriter:
        if site not in self._writers:
            path = self.folder / f"{site}.safetensors"
            self._writers[site] = RowWriter(RowFile(path, self.manifest.dtype, width))
        return self._writers[site]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is interrupted half way ends the writer: its rows may not be whole."""
        try:
            yield
        except (OSError, RunError) as error:
            self.abandon()
            raise RecordingError(
                f"cannot write to {self.folder}: {getattr(error, 'strerror', None) or error}. "
                "What was flushed is safe: free some space or make the folder writable, then "
                "continue with resume=True."
            ) from error
        except BaseException:
            self.abandon()
            raise

    def flush(self) -> None:
        """Make everything appended so far readable and safe against a crash.

        Raises:
            RecordingError: the disk is full, or the writer was closed or interrupted before.
        """
        self._require_open()
        with self._writing():
            for writer in self._writers.values():
                writer.sync()
            files = {site: writer.target for site, writer in self._writers.items()}
            self.manifest.sites = {
                site: {"width": file.width, "crc32": file.crc32} for site, file in files.items()
            }
            save_manifest(self.folder, self.manifest)

    def close(self) -> None:
        """Flush, and complete every file to plain safetensors."""
        self.flush()
        with self._writing():
            for writer in self._writers.values():
                writer.close(self.manifest.offsets())
            self.manifest.complete = True
            save_manifest(self.folder, self.manifest)
        self.abandon()

    def abandon(self) -> None:
        """Stop without completing; what was flushed can be read, and continued later."""
        self._open = False
        for writer in self._writers.values():
            writer.abandon()
        self._lock.release()
