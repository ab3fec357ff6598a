"""How many bytes a recording will take, known before it is made."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.errors import InvalidValueError
from workbench.row_files import DTYPES, HEADER_BYTES

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Estimate:
    """What a recording will hold. Exact, the manifest left out."""

    widths: Mapping[str, int]
    """Numbers a row, by site."""
    examples: int
    rows: int
    """Kept tokens of all examples, at one step."""
    steps: int
    dtype: str

    @property
    def rows_bytes(self) -> int:
        """Bytes of the activations."""
        numbers = self.rows * self.steps * sum(self.widths.values())
        return numbers * np.dtype(DTYPES[self.dtype][1]).itemsize

    @property
    def file_bytes(self) -> int:
        """Bytes of the complete files: activations, headers and offsets."""
        each = HEADER_BYTES + 8 * (self.examples * self.steps + 1)
        return self.rows_bytes + each * len(self.widths)

    def __str__(self) -> str:
        shapes = ", ".join(map(str, sorted(set(self.widths.values()))))
        return (
            f"{len(self.widths)} sites x {self.steps} steps x {self.rows} rows "
            f"({self.examples} examples) of {shapes} numbers in {self.dtype}: "
            f"{shown(self.file_bytes)}"
        )

    def require(self, max_bytes: int | None, folder: Path | None = None, held: int = 0) -> None:
        """Refuse a recording that is larger than allowed, or than the disk.

        Args:
            max_bytes: what is allowed for the activations; None for no limit.
            folder: where it is to go; None looks at no disk.
            held: bytes of it that are there already.

        Raises:
            InvalidValueError: too large; the message says what would make it smaller.
        """
        if max_bytes is not None and self.rows_bytes > max_bytes:
            raise InvalidValueError(
                f"{self} ({self.rows_bytes} bytes of activations), which is more than the "
                f"{shown(max_bytes)} allowed (max_bytes={max_bytes}). {self._smaller()}"
            )
        if folder is None:
            return
        there = next(x for x in (folder, *folder.absolute().parents) if x.exists())
        free = shutil.disk_usage(there).free
        if self.file_bytes - held > free:
            raise InvalidValueError(
                f"{self}, but only {shown(free)} are free at {there}. {self._smaller()}"
            )

    def _smaller(self) -> str:
        shorter = "" if self.dtype != "fp32" else ", or dtype='bf16' (half the bytes)"
        return (
            f"A site takes {shown(self.rows_bytes // max(1, len(self.widths)))}: record fewer "
            "sites, other positions (last_prompt, mean_response, response:5), fewer examples or "
            f"steps{shorter}; or allow more."
        )


def shown(size: int) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 * UNITS[unit.upper()]:
            return f"{size / UNITS[unit.upper()]:.{0 if unit == 'B' else 1}f} {unit}"
    return f"{size / UNITS['TB']:.1f} TB"


def parse_bytes(text: str) -> int:
    """Bytes of `500MB`, `2GiB` or a plain number.

    Raises:
        InvalidValueError: it is neither.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in UNITS:
        raise InvalidValueError(f"{text!r} is no number of bytes; write e.g. 500MB or 2GiB.")
    return int(float(found[1]) * UNITS[found[2].upper()])
