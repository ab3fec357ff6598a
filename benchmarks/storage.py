"""Rows about recording files: writing and reading beside plain files of the same bytes."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Figure, Work, interleaved, timed, upper_bound
from benchmarks.table import Bench, Row
from workbench.recording_writer import RecordingWriter
from workbench.recordings import Recording

BLOCK = 128 * 1024
"""What `cat` reads at a time."""


@dataclass(frozen=True)
class Size:
    """A recording: 8 sites · 16 steps · 64 examples · 32 tokens · 1024 numbers are 537 MB."""

    sites: int = 8
    steps: int = 16
    examples: int = 64
    tokens: int = 32
    d_model: int = 1024

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(f"blocks.{i}.hook_resid_post" for i in range(self.sites))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the examples."""
        return tuple(f"e{i}" for i in range(self.examples))

    @property
    def site_bytes(self) -> int:
        """Bytes of one site."""
        return self.steps * self.examples * self.tokens * self.d_model * 2

    def rows(self, dtype: torch.dtype) -> Tensor:
        """One step's activations of one site."""
        made = torch.Generator().manual_seed(0)
        shape = (self.examples * self.tokens, self.d_model)
        return torch.randn(shape, generator=made).to(dtype)


QUICK = Size(sites=2, steps=2, examples=4, tokens=3, d_model=16)


def write(folder: Path, size: Size, rows: Tensor) -> None:
    """A recording, flushed (and so synced) after every step, as the recorder does."""
    with RecordingWriter(folder, size.names, positions="all", dtype="bf16") as writer:
        for step in range(size.steps):
            writer.append(
                step, size.ids, [size.tokens] * size.examples, dict.fromkeys(size.names, rows)
            )
            writer.flush()


def write_plainly(folder: Path, size: Size, rows: bytes) -> None:
    """The same bytes to as many files, synced as often."""
    folder.mkdir()
    files = [(folder / name).open("wb") for name in size.names]
    for _ in range(size.steps):
        for file in files:
            file.write(rows)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    for file in files:
        file.close()


def store(quick: bool) -> list[Figure]:
    """All three rows, on one kind of recording."""
    size = QUICK if quick else Size()
    with tempfile.TemporaryDirectory(dir=".") as root:  # /tmp may be memory, not a disk
        return [
            _writing(Path(root), size),
            *_reading(Path(root) / "read", size, rounds=3 if quick else 25),
        ]


def _writing(root: Path, size: Size) -> Figure:
    rows, fresh = size.rows(torch.bfloat16), count()
    wide, stored = rows.float(), rows.view(torch.int16).numpy().tobytes()

    def ours() -> None:
        write(root / f"ours{next(fresh)}", size, rows)

    def converting() -> None:
        write(root / f"ours{next(fresh)}", size, wide)

    def plainly() -> None:
        write_plainly(root / f"plain{next(fresh)}", size, stored)

    def clean() -> None:
        for folder in root.iterdir():
            rmtree(folder)
        os.sync()

    bytes_written = size.sites * size.site_bytes
    from_fp32 = interleaved(converting, plainly, rounds=3, warmup=1, clock="wall", before=clean)
    times = interleaved(ours, plainly, rounds=7, warmup=1, clock="wall", before=clean)
    clean()
    how = asdict(size) | {
        "bytes": bytes_written,
        "given": "bf16 activations, flushed after every step",
        "ratio_given_fp32": round(1 / float(np.median(from_fp32.ratios("wall"))), 4),
    }
    return times.figure(how, inverse=True, amount=bytes_written / 1e6)


def _reading(folder: Path, size: Size, rounds: int) -> Iterator[Figure]:
    write(folder, size, size.rows(torch.bfloat16))
    recording, site = Recording(folder), size.names[-1]
    file = folder / f"{site}.safetensors"
    how = asdict(size) | {"bytes": size.site_bytes, "page_cache": "dropped before each read"}

    def layer() -> None:
        for step in recording.steps:
            recording.read(site, step=step)

    times = interleaved(layer, lambda: read_plainly(file), rounds=rounds, warmup=1, clock="wall",
                        before=lambda: forget(file))  # fmt: skip
    yield times.figure(how, amount=size.site_bytes / 1e6)
    yield _one_example(recording, file, site, size, rounds * 4)


def _one_example(recording: Recording, file: Path, site: str, size: Size, reads: int) -> Figure:
    draws = np.random.default_rng(0)

    def read() -> None:
        step, example = int(draws.integers(size.steps)), int(draws.integers(size.examples))
        recording.read(site, step=step, example=f"e{example}")

    def once(work: Work, *, cold: bool) -> float:
        if cold:
            forget(file)
        return 1e3 * timed(work)[1]

    chunk = min(1 << 20, size.site_bytes)
    cold = np.array([once(read, cold=True) for _ in range(reads)])
    plain = [once(lambda: read_plainly(file, chunk), cold=True) for _ in range(reads)]
    warm = [once(read, cold=False) for _ in range(reads)]
    how = asdict(size) | {
        "clock": "wall",
        "reads": reads,
        "page_cache": "dropped before each read",
        "middle_90_percent": [round(float(x), 4) for x in np.quantile(cold, (0.05, 0.95))],
        "in_page_cache_ms": round(float(np.median(warm)), 4),
    }
    median = float(np.median(cold))
    return Figure(median, upper_bound(cold), median, float(np.median(plain)), configuration=how)


def read_plainly(path: Path, stop: int | None = None) -> None:
    """What `cat FILE > /dev/null` does, without starting a process; of the first bytes if asked."""
    left = path.stat().st_size if stop is None else stop
    buffer = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while left > 0 and (got := file.readinto(buffer)):
            left -= got


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache; they must be on the disk already."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


BENCHES = (
    Bench(
        (
            Row(
                "store_write_ratio",
                "writing a 537 MB recording / the same bytes to plain files, synced alike",
                goal=0.70,
                better="higher",
                sides="MB/s",
                peer="plain files",
            ),
            Row(
                "store_read_layer_ratio",
                "cold read of one layer, checksums verified / cat of the same bytes",
                goal=3,
                sides="MB/s",
                peer="cat",
            ),
            Row(
                "store_read_example_ms",
                "cold read of one example at one layer and step, verified",
                goal=2,
                unit="ms",
                sides="ms",
                peer="cold read of 1 MiB, a checksum's chunk",
            ),
        ),
        store,
    ),
)
