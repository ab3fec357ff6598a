"""Rows of tables in files: .csv with a header, .json, .jsonl and .parquet."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from workbench.errors import InvalidValueError, WorkbenchError


def read_rows(file: Path) -> list[Any]:
    """The rows of a file as they are.

    Raises:
        WorkbenchError: no such file, or one that cannot be read.
        InvalidValueError: it holds no rows.
    """
    if file.is_dir():
        raise WorkbenchError(f"{file} is a folder; give one .{', .'.join(FORMATS)} file.")
    if not file.is_file():
        raise WorkbenchError(f"there is no file {str(file)!r}.")
    if file.suffix[1:] not in FORMATS:
        raise WorkbenchError(f"{file} is not a .{', .'.join(FORMATS)} file.")
    try:
        rows = FORMATS[file.suffix[1:]](file)
    except (OSError, ValueError, RecursionError, csv.Error, pyarrow.ArrowException) as error:
        raise WorkbenchError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error
    if not rows:
        raise InvalidValueError(f"{file} holds no rows.")
    return rows


def _csv(file: Path) -> list[Any]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines, strict=True)
        names = [name for name in table.fieldnames or () if name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"its header names the column {twice!r} more than once")
        rows = list(table)
    for i, row in enumerate(rows):
        if None in row:  # where DictReader puts what is too much
            raise ValueError(f"row {i} has more cells than the header")
    return rows


def _json(file: Path) -> list[Any]:
    rows = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"expected a list of rows, found {type(rows).__name__}")
    return rows


def _jsonl(file: Path) -> list[Any]:
    rows = []
    for i, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {i}, column {error.colno}: {error.msg}") from error
    return rows


def _parquet(file: Path) -> list[Any]:
    return pyarrow.parquet.read_table(file).to_pylist()


FORMATS: dict[str, Callable[[Path], list[Any]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
"""File suffix to the function that reads its rows."""
