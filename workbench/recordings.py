"""Reading recorded activations, without torch.

A recording is a folder: one row file a site (see `row_files`) and `manifest.json`, which says what
the rows are. The manifest is replaced in one go at every flush and speaks only of rows that were on
the disk by then, so a recording can be read while it grows and after its writer was killed.

    layouts   which examples were recorded together, and how many rows each of them has
    entries   [optimiser step, layout], in the order of the rows; a layout is shared by all the
              steps at which the same panel was recorded
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from workbench.errors import RecordingError
from workbench.row_files import CHUNK_BYTES, RowFile, starts

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Layout:
    """Examples recorded in one go, in the order of their rows."""

    examples: tuple[str, ...]
    lengths: tuple[int, ...]
    """Rows of each example."""


@dataclass
class Manifest:
    """What is in a recording, and what it was made from."""

    positions: str
    """Which tokens of each example are kept (see `workbench.positions`)."""
    dtype: str
    model: str | None = None
    """Digest of the weights at the start, if known."""
    tokenizer: str | None = None
    """Hash of tokenizer and chat template, if known."""
    rows: int = 0
    complete: bool = False
    """Whether the writer was closed in good order."""
    layouts: list[Layout] = field(default_factory=list)
    entries: list[tuple[int, int]] = field(default_factory=list)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Site -> {width, crc32}."""
    schema_version: int = SCHEMA_VERSION
    chunk_bytes: int = CHUNK_BYTES

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def ranges(self) -> Iterator[tuple[int, str, int, int]]:
        """Step, example, first row and end, in the order of the rows."""
        row = 0
        for step, at in self.entries:
            layout = self.layouts[at]
            for example, length in zip(layout.examples, layout.lengths, strict=True):
                yield step, example, row, row + length
                row += length

    def offsets(self) -> np.ndarray:
        """Where the rows of each (step, example) begin, and the end of the last."""
        return starts([stop - start for _, _, start, stop in self.ranges()])


def load_manifest(folder: Path) -> Manifest:
    """Read and check a recording's manifest.

    Raises:
        RecordingError: there is none, or it is corrupt, or from a newer version.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
        version, chunk = raw["schema_version"], raw["chunk_bytes"]
    except FileNotFoundError:
        raise RecordingError(f"no recording in {folder}: {MANIFEST} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path} is corrupt or unreadable: {error!r}.") from error
    if (version, chunk) != (SCHEMA_VERSION, CHUNK_BYTES):
        raise RecordingError(
            f"{path} has schema version {version} and chunks of {chunk} bytes; this version reads "
            f"schema version {SCHEMA_VERSION} and chunks of {CHUNK_BYTES}. Update the workbench."
        )
    try:
        return _checked(raw)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordingError(
            f"{path} is corrupt: {error!r}. Restore it, or record again."
        ) from error


def _checked(raw: dict[str, Any]) -> Manifest:
    raw["layouts"] = [Layout(tuple(x["examples"]), tuple(x["lengths"])) for x in raw["layouts"]]
    raw["entries"] = [(int(step), int(at)) for step, at in raw["entries"]]
    manifest = Manifest(**raw)
    covered = int(manifest.offsets()[-1])
    if covered != manifest.rows:
        raise ValueError(f"the entries cover {covered} of {manifest.rows} rows")
    for name, site in manifest.sites.items():
        size = RowFile(Path(), manifest.dtype, site["width"]).row_bytes * manifest.rows
        if len(site["crc32"]) != -(-size // CHUNK_BYTES):
            raise ValueError(f"{name} has {len(site['crc32'])} checksums for {size} bytes")
    return manifest


def row_file(folder: Path, manifest: Manifest, site: str) -> RowFile:
    """The file of one site."""
    about = manifest.sites[site]
    path = folder / f"{site}.safetensors"
    return RowFile(path, manifest.dtype, about["width"], manifest.rows, list(about["crc32"]))


class Recording:
    """Recorded activations, read lazily: only the rows asked for, their checksums verified.

    Args:
        path: the folder.

    Raises:
        RecordingError: there is no recording, or its manifest is corrupt or from a newer version.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = load_manifest(self.path)
        self._files = {site: row_file(self.path, self.manifest, site) for site in self.sites}
        self._rows: dict[int, dict[str, tuple[int, int]]] = {}
        for step, example, start, stop in self.manifest.ranges():
            self._rows.setdefault(step, {})[example] = (start, stop)

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

    def lengths(self, step: int) -> dict[str, int]:
        """How many rows each example has at a step, in the order in which `read` gives them."""
        rows = self._at("step", step, self._rows)
        return {example: stop - start for example, (start, stop) in rows.items()}

    def read(
        self, site: str, *, step: int, example: str | None = None
    ) -> Float32[np.ndarray, "row d_model"]:
        """Activations of one site at one step: of one example, or of all in the panel's order.

        Raises:
            RecordingError: no such site, step or example; or the file is corrupt or truncated.
        """
        file = self._at("site", site, self._files)
        rows = self._at("step", step, self._rows)
        spans = list(rows.values()) if example is None else [self._at("example", example, rows)]
        parts = [file.read(start, stop) for start, stop in joined(spans)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def verify(self) -> None:
        """Read every byte once.

        Raises:
            RecordingError: a file is corrupt, truncated or missing.
        """
        for file in self._files.values():
            chunk = max(1, CHUNK_BYTES // file.row_bytes)
            for start in range(0, file.rows, chunk):
                file.read(start, min(start + chunk, file.rows))

    def _at(self, kind: str, key: Any, known: dict[Any, Any]) -> Any:
        if key in known:
            return known[key]
        near = get_close_matches(str(key), map(str, known), n=1) if kind != "step" else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        shown = ", ".join(map(str, known)) or "none"
        raise RecordingError(f"{self.path} holds no {kind} {key!r}.{hint} It has: {shown}.")


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same rows in fewer reads: neighbouring spans become one."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
