"""Writing a recording: rows of activations, site by site, durable up to the last flush."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InvalidValueError, RecordingError
from workbench.files import write_json
from workbench.positions import Positions
from workbench.recordings import MANIFEST, Layout, Manifest, load_manifest, row_file
from workbench.row_files import RowFile, RowWriter

Dtype = Literal["bf16", "fp16", "fp32"]
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class RecordingWriter:
    """Writes a recording (format: `recordings`), durable up to the last `flush`.

    Args:
        folder: made if it does not exist.
        sites: names of the activations.
        positions: which tokens the rows are, for the reader.
        dtype: type on the disk. bf16 has the range of fp32, fp16 three more bits.
        model: digest of the start weights.
        tokenizer: hash of tokenizer and chat template.
        resume: continue a recording with the same description, from its last flush.

    Raises:
        RecordingError: there is a recording already, or it does not fit the description.
    """

    def __init__(
        self,
        folder: Path | str,
        sites: Sequence[str],
        *,
        positions: Positions,
        dtype: Dtype = "bf16",
        model: str | None = None,
        tokenizer: str | None = None,
        resume: bool = False,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sites = tuple(sites)
        self.manifest = Manifest(positions, dtype, model, tokenizer)
        self._writers: dict[str, RowWriter] = {}
        if (self.folder / MANIFEST).exists():
            self._continue(resume)

    def _continue(self, resume: bool) -> None:
        if not resume:
            raise RecordingError(
                f"{self.folder} already holds a recording. Choose another folder, or continue it "
                "with resume=True."
            )
        old, new = load_manifest(self.folder), self.manifest
        for what in ("positions", "dtype", "model", "tokenizer"):
            if getattr(old, what) != getattr(new, what):
                raise RecordingError(
                    f"cannot continue {self.folder}: its {what} is {getattr(old, what)!r}, "
                    f"not {getattr(new, what)!r}."
                )
        if old.sites and set(old.sites) != set(self.sites):
            raise RecordingError(
                f"cannot continue {self.folder}: it records {', '.join(old.sites)}, "
                f"not {', '.join(self.sites)}."
            )
        self.manifest = replace(old, complete=False)
        for site in old.sites:
            self._writers[site] = RowWriter(row_file(self.folder, old, site))

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
                at this step before, or a value is too large for fp16.
        """
        layout = Layout(tuple(examples), tuple(lengths))
        self._check(step, layout, acts)
        stored = {site: encoded(acts[site], self.manifest.dtype, site) for site in self.sites}
        with self._writing():
            for site, rows in stored.items():
                self._writer(site, rows.shape[1]).append(rows)
        manifest = self.manifest
        if layout not in manifest.layouts:
            manifest.layouts.append(layout)
        manifest.entries.append((step, manifest.layouts.index(layout)))
        manifest.rows += sum(lengths)

    def _check(self, step: int, layout: Layout, acts: Mapping[str, Tensor]) -> None:
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
        here = [self.manifest.layouts[at] for s, at in self.manifest.entries if s == step]
        names = [name for old in (*here, layout) for name in old.examples]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidValueError(f"example {twice!r} is recorded twice at step {step}.")

    def _writer(self, site: str, width: int) -> RowWriter:
        if site not in self._writers:
            path = self.folder / f"{site}.safetensors"
            self._writers[site] = RowWriter(RowFile(path, self.manifest.dtype, width))
        return self._writers[site]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            raise RecordingError(
                f"cannot write to {self.folder}: {error.strerror or error}. What was flushed is "
                "safe; make room and continue with resume=True."
            ) from error

    def flush(self) -> None:
        """Make everything appended so far readable and safe against a crash."""
        with self._writing():
            for writer in self._writers.values():
                writer.sync()
        files = {site: writer.target for site, writer in self._writers.items()}
        self.manifest.sites = {s: {"width": f.width, "crc32": f.crc32} for s, f in files.items()}
        write_json(self.folder / MANIFEST, self.manifest.to_json())

    def close(self) -> None:
        """Flush, and complete every file to plain safetensors."""
        self.flush()
        with self._writing():
            for writer in self._writers.values():
                writer.close(self.manifest.offsets())
        self.manifest.complete = True
        write_json(self.folder / MANIFEST, self.manifest.to_json())

    def abandon(self) -> None:
        """Stop without completing; what was flushed can be read, and continued later."""
        for writer in self._writers.values():
            writer.abandon()

    def __enter__(self) -> "RecordingWriter":
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


def encoded(x: Float[Tensor, "row d_model"], dtype: str, site: str) -> np.ndarray:
    """Numbers as they go to disk.

    Raises:
        InvalidValueError: a finite value is not finite in fp16.
    """
    stored = x.detach().to("cpu", TORCH[dtype]).contiguous()
    if dtype == "fp16" and bool((stored.isinf() & x.cpu().isfinite()).any()):
        raise InvalidValueError(
            f"{site} reaches {float(x.abs().max()):.3g}, beyond what fp16 can hold (65504). "
            "Record with dtype='bf16'."
        )
    return (stored.view(torch.int16) if dtype == "bf16" else stored).numpy()
