"""The manifest of a recording: what its rows are, how many count, and their checksums.

The file is replaced in one go at every flush and speaks only of rows that were on the disk by then,
so a recording can be read while it grows and after its writer was killed. It carries a digest of
itself: a manifest that was changed by a hand or a bad disk is refused, not believed.

    layouts   which examples were recorded together, and how many rows each of them has
    entries   [optimiser step, layout], in the order of the rows; a layout is shared by all the
              steps at which the same panel was recorded
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InvalidValueError, RecordingError
from workbench.files import write_json
from workbench.row_files import CHUNK_BYTES, RowFile, starts

SCHEMA_VERSION = 2
UNSIGNED = 1
"""The last version without a digest and without the panel's identity; still read."""
MANIFEST = "manifest.json"
DIGEST = "sha256"


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
    panel: dict[str, Any] | None = None
    """Name, version and digest of the texts, and a digest of each (`PromptSet.identity`)."""
    cut: int | None = None
    """Texts were cut to so many tokens; None for whole ones, or where it is not known."""
    tokens: str | None = None
    """Digest of the token ids that were read, where they were given as batches."""
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
        layouts = [{"examples": x.examples, "lengths": x.lengths} for x in self.layouts]
        return vars(self) | {"layouts": layouts, "schema_version": SCHEMA_VERSION}

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


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a recording's manifest in one go.

    Raises:
        RunError: the folder cannot be written.
    """
    plain = manifest.to_json()
    write_json(folder / MANIFEST, {DIGEST: digest(plain)} | plain)


def load_manifest(folder: Path) -> Manifest:
    """Read and check a recording's manifest.

    Raises:
        RecordingError: there is none, or it is corrupt, or from a newer version.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
        version, chunk = raw["schema_version"], raw["chunk_bytes"]
    except (FileNotFoundError, NotADirectoryError):
        raise RecordingError(f"no recording in {folder}: {MANIFEST} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordingError(f"{path} is corrupt or unreadable: {error!r}.") from error
    written = raw.pop(DIGEST, None)
    if version not in (UNSIGNED, SCHEMA_VERSION) or chunk != CHUNK_BYTES:
        raise RecordingError(
            f"{path} has schema version {version} and chunks of {chunk} bytes; this version reads "
            f"schema version {SCHEMA_VERSION} and chunks of {CHUNK_BYTES}. Update the workbench."
        )
    if (written is not None or version > UNSIGNED) and written != digest(raw):
        raise RecordingError(
            f"{path} is corrupt: it is not what was written (its digest does not match). Restore "
            "it, or record again."
        )
    try:
        return _checked(raw)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RecordingError(
            f"{path} is corrupt: {error!r}. Restore it, or record again."
        ) from error


def digest(plain: dict[str, Any]) -> str:
    """SHA-256 of JSON values, however they are laid out in a file."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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


def require_sites(sites: Sequence[str]) -> None:
    """Refuse to record nothing.

    Raises:
        InvalidValueError: no sites.
    """
    if not sites:
        raise InvalidValueError(
            "no sites were given, so there is nothing to record; give e.g. resid_post (every "
            "block), resid_post.3 or attn_out."
        )


def require_same(folder: Path, old: Manifest, new: Manifest, sites: Sequence[str]) -> None:
    """Refuse to continue a recording as what it is not.

    Raises:
        RecordingError: its description or its sites are others, which are named.
    """
    for what in ("positions", "dtype", "model", "tokenizer", "panel", "cut", "tokens"):
        one, two = (_short(getattr(manifest, what)) for manifest in (old, new))
        if one != two:
            raise RecordingError(f"cannot continue {folder}: its {what} is {one!r}, not {two!r}.")
    if old.sites and set(old.sites) != set(sites):
        gone = ", ".join(sorted({*old.sites} - {*sites})) or "no others"
        more = ", ".join(sorted({*sites} - {*old.sites})) or "no others"
        raise RecordingError(
            f"cannot continue {folder}: it records {gone}; asked for were {more}. Sites cannot "
            "change on the way."
        )


def _short(value: Any) -> Any:
    """A panel by its name, version and digest; anything else as it is."""
    if isinstance(value, dict):
        return f"{value['name']} {value['version']} ({value['sha256']:.12})"
    return value


def row_file(folder: Path, manifest: Manifest, site: str) -> RowFile:
    """The file of one site."""
    about = manifest.sites[site]
    path = folder / f"{site}.safetensors"
    return RowFile(path, manifest.dtype, about["width"], manifest.rows, list(about["crc32"]))
