"""Make the shipped example store from a real one: `python -m app.example STORE`.

Rows are copied as they were measured; what is left out is left out whole: weights, activations,
checkpoints, and so many prompts' answers and seeds' analyses that the whole stays below 3 MB. The
store has rows for every figure if it was made by `workbench demo --probes all`.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from app.__main__ import EXAMPLE
from workbench import tables
from workbench.errors import InvalidValueError, WorkbenchError
from workbench.headers import HEADER, RunHeader
from workbench.rows import (
    KINDS,
    Cost,
    EmbeddingDrift,
    Generation,
    Loss,
    Metric,
    Prefill,
    Prompt,
    Row,
    Token,
    TokenKL,
)
from workbench.store import Store

LIMIT = 3_000_000
"""Bytes that the example may take."""
WHOLE: tuple[type[Row], ...] = (Metric, Cost, Loss, Prefill, TokenKL, EmbeddingDrift)
"""Kept of all seeds; what the other kinds hold is kept of the first seed alone."""
MEASURES: dict[type[Row], str] = {EmbeddingDrift: "relative_l2", TokenKL: "forward_kl"}
"""The measure of each field that is kept: the one its figure shows first."""


@dataclass(frozen=True)
class Arguments:
    """Replace the shipped example store by a part of a real one."""

    store: tyro.conf.Positional[Path]
    """The store to take it from, e.g. runs/demo."""
    prompts: int = 8
    """Prompts of each kind whose text and answers are kept, of the first seed only."""


def make(source: Path, target: Path, prompts: int) -> int:
    """Write the example; return its size in bytes.

    Raises:
        InvalidValueError: nothing is finished in the store, or the example would be too large.
    """
    store = Store(source)
    runs = store.find(state="finished")
    if not runs:
        raise InvalidValueError(f"{source} has no finished run; `workbench demo` makes some.")
    made = Path(mkdtemp(dir=target.parent))
    try:
        first = min(run.seed for run in runs)
        for run in runs:
            _copy(store, run, made / run.id, prompts if run.seed == first else None)
        size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
        if size > LIMIT:
            raise InvalidValueError(f"the example takes {size} bytes, more than {LIMIT}.")
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
        target.chmod(0o755)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return size


def _copy(store: Store, run: RunHeader, folder: Path, prompts: int | None) -> None:
    """Copy one run; `prompts` says of how many the texts are kept, None for a later seed."""
    folder.mkdir()
    header = json.loads((store.folder(run.id) / HEADER).read_text())
    (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n")
    kept = _kept_prompts(store, run, prompts or 0)
    for kind in KINDS.values() if prompts is not None else WHOLE:
        whole = tables.read(kind, store.folder(run.id) / f"{kind.kind}.parquet")
        if whole.num_rows:
            part = whole.filter(pa.array(_kept(kind, whole, kept)))
            words = [f.name for f in part.schema if pa.types.is_string(f.type)]
            pq.write_table(
                part, folder / f"{kind.kind}.parquet", compression="zstd", compression_level=19,
                use_dictionary=words, write_page_checksum=True,
            )  # fmt: skip


def _kept_prompts(store: Store, run: RunHeader, each: int) -> set[str]:
    frame = store.read(Prompt, [run])
    return set(frame.groupby("question")["example"].head(each))


def _kept(kind: type[Row], table: pa.Table, prompts: set[str]) -> pd.Series:
    """Which rows stay."""
    frame = table.drop_columns(
        [n for n in table.column_names if n in ("values", "text")]
    ).to_pandas()
    if kind in (Prompt, Generation, Token):
        return frame["example"].isin(prompts)
    if kind in MEASURES:
        return frame["measure"] == MEASURES[kind]
    return pd.Series(True, index=frame.index)


def main(arguments: Arguments) -> int:
    """Make the example; return the exit code."""
    try:
        size = make(arguments.store, EXAMPLE, arguments.prompts)
    except WorkbenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{EXAMPLE}: {size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, prog="python -m app.example")))
