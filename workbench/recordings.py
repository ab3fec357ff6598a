"""Reading recorded activations, without torch.

A recording is a folder: one row file a site (see `row_files`) and `manifest.json`, which says what
the rows are (see `recording_manifest`). What a writer left behind its last flush is never read.
"""

import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from workbench.errors import InvalidValueError, RecordingError, WorkbenchWarning
from workbench.files import Lock
from workbench.recording_manifest import MANIFEST, Manifest, load_manifest, row_file
from workbench.row_files import RowFile, as_float32

WRITER = ".writer"
"""The lock that a recording's writer holds."""
AGAIN = "Open it again to read all that was flushed."
"""What is said where rows were flushed after a recording was opened."""


class Recording:
    """Recorded activations, read lazily: only the rows asked for, their checksums verified.

    One whose writer stopped before it was done is opened up to its last flush, with a warning.

    Args:
        path: the folder.
        warn: False for who says `unfinished` in words of their own.

    Raises:
        RecordingError: there is no recording, or its manifest is corrupt or from a newer version.
    """

    def __init__(self, path: Path | str, *, warn: bool = True):
        self.path = Path(path)
        self.manifest = load_manifest(self.path)
        stopped = not self.manifest.complete and not self._being_written()
        if stopped:
            self.manifest = load_manifest(self.path)  # it may have been completed in between
        self._files = {site: row_file(self.path, self.manifest, site) for site in self.sites}
        self._rows: dict[int, dict[str, tuple[int, int]]] = {}
        for step, example, start, stop in self.manifest.ranges():
            self._rows.setdefault(step, {})[example] = (start, stop)
        if warn and stopped and not self.manifest.complete:
            warnings.warn(self._stopped(self.manifest), WorkbenchWarning, stacklevel=2)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the recorded activations."""
        return tuple(self.manifest.sites)

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimiser steps at which the panel was recorded."""
        return tuple(sorted(self._rows))

    @property
    def examples(self) -> tuple[str, ...]:
        """Ids of the panel's examples."""
        return tuple(dict.fromkeys(x for layout in self.manifest.layouts for x in layout.examples))

    @property
    def unfinished(self) -> str | None:
        """Why this recording may lack something, and what of it is readable; None if it is whole.

        Three reasons: its writer is still at work, or was stopped before it was done, or completed
        it after this object, which keeps to what it found, was made.

        Raises:
            RecordingError: its manifest is gone or corrupt by now.
        """
        if self.manifest.complete:
            return None
        if self._being_written():
            return f"Still being written; so far {self._readable()}"
        now = load_manifest(self.path)
        if now.complete:
            return f"Completed since it was opened; as opened, {self._readable()} {AGAIN}"
        return self._stopped(now)

    def _being_written(self) -> bool:
        return Lock(self.path / WRITER).held()

    def _stopped(self, now: Manifest) -> str:
        files = [row_file(self.path, now, site) for site in now.sites]
        torn = lost(sum(max(0, file.beyond()) for file in files))
        grown = AGAIN if now.rows > self.manifest.rows else ""
        said = ["Its writer stopped before it was done;", self._readable(), torn, grown]
        return " ".join(filter(None, said))

    def _readable(self) -> str:
        return (
            f"{self.manifest.rows} rows of {len(self.examples)} examples at {len(self.steps)} "
            f"steps are readable ({self.path})."
        )

    def lengths(self, step: int) -> dict[str, int]:
        """How many rows each example has at a step, in the order in which `read` gives them."""
        rows = self._at("step", step, self._rows)
        return {example: stop - start for example, (start, stop) in rows.items()}

    def read(
        self,
        site: str,
        *,
        step: int,
        example: str | Sequence[str] | None = None,
        rows: slice | None = None,
    ) -> Float32[np.ndarray, "row d_model"]:
        """Activations of one site at one step.

        Args:
            site: a canonical name.
            step: an optimiser step that was recorded.
            example: one, or several in the order wanted; None for all in the panel's order.
            rows: of each of these examples only such rows (kept tokens), e.g. `slice(0, 3)`.

        Raises:
            RecordingError: no such site, step or example; or the file is corrupt or truncated.
            InvalidValueError: rows that are not consecutive.
        """
        stored = self.stored(site, step=step, example=example, rows=rows)
        return as_float32(stored, self.manifest.dtype)

    def stored(
        self,
        site: str,
        *,
        step: int,
        example: str | Sequence[str] | None = None,
        rows: slice | None = None,
    ) -> Shaped[np.ndarray, "row d_model"]:
        """As `read`, in the type on the disk (bfloat16 as unsigned integers of 16 bits)."""
        file = self._at("site", site, self._files)
        at_step = self._at("step", step, self._rows)
        wanted = [example] if isinstance(example, str) else at_step if example is None else example
        spans = [part(self._at("example", name, at_step), rows) for name in wanted]
        parts = [file.stored(start, stop) for start, stop in joined(spans) or [(0, 0)]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def verify(self) -> None:
        """Read every byte once: all rows and, of a complete recording, headers and offsets.

        Raises:
            RecordingError: a file is corrupt, truncated or missing.
        """
        offsets = self.manifest.offsets() if self.manifest.complete else None
        for file in self._files.values():
            file.verify(offsets)

    @property
    def files(self) -> dict[str, RowFile]:
        """The file of each site."""
        return dict(self._files)

    def _at(self, kind: str, key: Any, known: dict[Any, Any]) -> Any:
        if key in known:
            return known[key]
        near = get_close_matches(str(key), map(str, known), n=1) if kind != "step" else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        shown = ", ".join([str(x) for x in known][:20]) or "none"
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        raise RecordingError(f"{self.path} holds no {kind} {key!r}.{hint} It has: {shown}{more}.")


def lost(torn: int) -> str:
    """What is said of bytes behind the last flush."""
    return f"{torn} bytes behind the last flush were torn off and do not count." if torn else ""


def part(span: tuple[int, int], rows: slice | None) -> tuple[int, int]:
    """Some rows of one example's rows.

    Raises:
        InvalidValueError: rows that are not consecutive.
    """
    if rows is None:
        return span
    first, stop, stride = rows.indices(span[1] - span[0])
    if stride != 1:
        raise InvalidValueError(f"rows are read as they follow each other, not every {stride}th.")
    return span[0] + first, span[0] + max(first, stop)


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same rows in fewer reads: neighbouring spans become one."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def is_recording(folder: Path) -> bool:
    """Whether a folder holds a recording."""
    return (folder / MANIFEST).is_file()
