"""One append-only safetensors file of rows, checksummed a chunk at a time.

    8 bytes      length of the JSON that follows
    1016 bytes   safetensors' JSON, padded with spaces; rewritten in place when the file is closed
    rows         `acts`, row after row, little endian
    8 bytes a -  `offsets`, int64: where each recorded example's rows begin, and the end; written
                 when the file is closed

Rows only ever get appended, so rows that were flushed once stay readable whatever happens later:
the recording's manifest tells readers how many rows count, and they ignore the rest. Once closed,
the file is plain safetensors that anything can open.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from workbench.errors import RecordingError

HEADER_BYTES = 1024
CHUNK_BYTES = 1 << 20
DTYPES = {"bf16": ("BF16", "<u2"), "fp16": ("F16", "<f2"), "fp32": ("F32", "<f4")}
"""Our name of a type -> safetensors's, and numpy's (which has no bfloat16)."""


@dataclass
class RowFile:
    """The rows of one file that count, and their checksums."""

    path: Path
    dtype: str
    width: int
    rows: int = 0
    crc32: list[int] = field(default_factory=list)
    """CRC-32 of each `CHUNK_BYTES` of rows; the last one covers what there is of its chunk."""

    @property
    def row_bytes(self) -> int:
        """Bytes a row."""
        return self.width * np.dtype(DTYPES[self.dtype][1]).itemsize

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "row d_model"]:
        """Rows `start` to `stop` as numbers, their checksums verified.

        Raises:
            RecordingError: the file is missing, too short, or not what was written.
        """
        return as_float32(self.stored(start, stop), self.dtype)

    def stored(self, start: int, stop: int) -> Shaped[np.ndarray, "row d_model"]:
        """The same as it stands in the file; bfloat16 as unsigned integers of 16 bits.

        Raises:
            RecordingError: the file is missing, too short, or not what was written.
        """
        first, last = start * self.row_bytes, stop * self.row_bytes
        begin = first // CHUNK_BYTES * CHUNK_BYTES
        end = min(-(-last // CHUNK_BYTES) * CHUNK_BYTES, self.rows * self.row_bytes)
        data = memoryview(self._verified(begin, max(begin, end)))[first - begin : last - begin]
        return np.frombuffer(data, DTYPES[self.dtype][1]).reshape(stop - start, self.width)

    def header(self, n_offsets: int) -> bytes:
        """What safetensors wants to know, for so many rows and offsets."""
        end = self.rows * self.row_bytes
        acts = {"dtype": DTYPES[self.dtype][0], "shape": [self.rows, self.width]}
        offsets = {"dtype": "I64", "shape": [n_offsets], "data_offsets": [end, end + 8 * n_offsets]}
        text = json.dumps({"acts": acts | {"data_offsets": [0, end]}, "offsets": offsets}).encode()
        return struct.pack("<Q", HEADER_BYTES - 8) + text.ljust(HEADER_BYTES - 8)

    def beyond(self) -> int:
        """How many bytes the file has behind the rows that count; negative if it is too short."""
        with suppress(OSError):
            return self.path.stat().st_size - HEADER_BYTES - self.rows * self.row_bytes
        return 0

    def verify(self, offsets: Int64[np.ndarray, " n"] | None) -> None:
        """Read every row once and, of a file that was closed, header and offsets, too.

        Raises:
            RecordingError: the file is missing, too short, or not what was written.
        """
        for first in range(0, self.rows, at_once := max(1, CHUNK_BYTES // self.row_bytes)):
            self.stored(first, min(first + at_once, self.rows))
        if offsets is None:
            return
        head, tail = self._bytes(0, HEADER_BYTES), offsets.astype("<i8").tobytes()
        end = HEADER_BYTES + self.rows * self.row_bytes
        if head != self.header(len(offsets)) or self._bytes(end, len(tail) + 1) != tail:
            raise RecordingError(
                f"{self.path} is corrupt: its safetensors header or its offsets are not what was "
                "written. Its rows are whole: they can still be read here. Restore the file, or "
                "record again, before you give it to other programs."
            )

    def _bytes(self, start: int, count: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(count)
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror or error}.") from error

    def _verified(self, begin: int, end: int) -> bytes:
        data = self._bytes(HEADER_BYTES + begin, end - begin)
        if len(data) < end - begin:
            raise RecordingError(
                f"{self.path} is truncated: its manifest speaks of {self.rows} rows, the file ends "
                f"{end - begin - len(data)} bytes too early. Restore it, or record again."
            )
        for at in range(0, end - begin, CHUNK_BYTES):
            chunk = (begin + at) // CHUNK_BYTES
            if zlib.crc32(memoryview(data)[at : at + CHUNK_BYTES]) != self.crc32[chunk]:
                raise RecordingError(
                    f"{self.path} is corrupt: checksum mismatch in chunk {chunk} (rows "
                    f"{chunk * CHUNK_BYTES // self.row_bytes} and on). Restore it, or record again."
                )
        return data


class RowWriter:
    """Appends to a row file, from its last row that counts."""

    def __init__(self, target: RowFile):
        self.target = target
        if not target.rows:
            target.path.write_bytes(target.header(n_offsets=0))
        self._file = target.path.open("r+b")
        kept = HEADER_BYTES + target.rows * target.row_bytes
        if os.fstat(self._file.fileno()).st_size < kept:
            self._file.close()
            raise RecordingError(f"{target.path} is truncated, so it cannot be continued.")
        self._file.truncate(kept)  # what a killed writer left behind its last flush
        self._file.seek(kept)

    def append(self, rows: Shaped[np.ndarray, "row d_model"]) -> None:
        """Append rows whose bytes are in the file's own type."""
        crc32, view = self.target.crc32, np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        done = self.target.rows * self.target.row_bytes
        self._file.write(view)
        while view:
            room = CHUNK_BYTES - done % CHUNK_BYTES
            if room == CHUNK_BYTES:
                crc32.append(0)
            crc32[-1] = zlib.crc32(view[:room], crc32[-1])
            done, view = done + len(view[:room]), view[room:]
        self.target.rows += len(rows)

    def sync(self) -> None:
        """Wait until the disk has everything appended so far."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, offsets: Int64[np.ndarray, " n"]) -> None:
        """Complete the file to plain safetensors."""
        self._file.write(offsets.astype("<i8").tobytes())
        self._file.seek(0)
        self._file.write(self.target.header(len(offsets)))
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Close without completing; what was synced can be continued later."""
        with suppress(OSError):  # what cannot be written was not promised
            self._file.close()


def as_float32(
    stored: Shaped[np.ndarray, "row d_model"], dtype: str
) -> Float32[np.ndarray, "row d_model"]:
    """Stored numbers as float32; a bfloat16 is the upper half of one."""
    if dtype == "bf16":
        wide = stored.astype(np.uint32)
        wide <<= 16  # in place: a second array of this size costs more than the shift
        return wide.view(np.float32)
    return stored.astype(np.float32)


def starts(lengths: Sequence[int]) -> Int64[np.ndarray, " n"]:
    """Where each of several runs of rows begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
