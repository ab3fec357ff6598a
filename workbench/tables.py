"""Rows to parquet tables and back, checked on the way in.

A row class is the schema: `str`, `Literal`, `int`, `float` and `bool` fields are columns of one
value, `list[float]` fields columns of float32 lists. No column holds nulls.
"""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.errors import InvalidValueError, RunError
from workbench.files import replacing
from workbench.rows import Row, columns, is_list

VERSION = b"schema_version"
_BOOLEAN = (bool, np.bool_)
_ARROW: dict[object, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}
_ACCEPTS: dict[object, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, _BOOLEAN),
    float: lambda value: isinstance(value, Real) and not isinstance(value, _BOOLEAN),
    bool: lambda value: isinstance(value, _BOOLEAN),
}


def schema(kind: type[Row]) -> pa.Schema:
    """The parquet schema of a kind of row; its version is in the metadata."""
    hints = get_type_hints(kind)
    items = [pa.field(name, _arrow(hints[name]), nullable=False) for name in columns(kind)]
    return pa.schema(items, metadata={VERSION: str(kind.schema_version).encode()})


def _arrow(annotation: object) -> pa.DataType:
    if is_list(annotation):
        return pa.list_(pa.field("item", pa.float32(), nullable=False))
    return _ARROW[str if get_origin(annotation) is Literal else annotation]


def table(rows: Sequence[Row]) -> pa.Table:
    """Rows of one kind as a table.

    Raises:
        InvalidValueError: a value is not of its column's type; the message names row and column.
    """
    kind = type(rows[0])
    hints = get_type_hints(kind)
    data = {name: [_checked(row, name, hints[name]) for row in rows] for name in columns(kind)}
    try:
        return pa.table(data, schema=schema(kind))
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise InvalidValueError(f"rows of {kind.kind!r} cannot be stored: {error}.") from error


def _checked(row: Row, name: str, annotation: object) -> object:
    value = getattr(row, name)
    if get_origin(annotation) is Literal:
        accepted, wanted = value in get_args(annotation), f"one of {get_args(annotation)}"
    elif is_list(annotation):
        value, accepted = _float32(value)
        wanted = "a list of numbers that fit in float32"
    else:
        accepted, wanted = _ACCEPTS[annotation](value), f"a value of type {annotation.__name__}"  # type: ignore[attr-defined]
    if not accepted:
        raise InvalidValueError(
            f"column {name!r} of a row of {row.kind!r} must be {wanted}, "
            f"not {value!r:.80}. Row: {row!r:.240}"
        )
    return value


def _float32(value: Any) -> tuple[Any, bool]:
    """The values as a float32 vector, and whether that is what they are."""
    if not isinstance(value, list | tuple | np.ndarray):
        return value, False
    if not isinstance(value, np.ndarray) and not all(_ACCEPTS[float](x) for x in value):
        return value, False
    wide = np.asarray(value)
    if wide.ndim != 1 or (wide.size and wide.dtype.kind not in "iuf"):
        return value, False
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow, bool((np.isfinite(narrow) == np.isfinite(wide)).all())


def write(data: pa.Table, path: Path) -> None:
    """Replace a table on disk in one go, with a checksum on every page.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(path) as file:
        pq.write_table(data, file, compression="zstd", write_page_checksum=True)


def read(kind: type[Row], path: Path) -> pa.Table:
    """A table from disk; without rows when there is no such file.

    Raises:
        RunError: the file is corrupt, or holds another version of these columns.
    """
    try:
        with open(path, "rb") as file:  # opened once: the path may be replaced while we read
            found = pq.ParquetFile(file, page_checksum_verification=True).read()
        version = int((found.schema.metadata or {})[VERSION])
    except FileNotFoundError:
        return schema(kind).empty_table()
    except (OSError, pa.ArrowException, LookupError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). Delete the run folder {path.parent} and run its "
            "command again to make it anew."
        ) from error
    if version > kind.schema_version:
        raise RunError(
            f"{path} was written by a newer workbench (version {version} of these columns; this "
            f"one knows {kind.schema_version}). Upgrade the workbench to read it."
        )
    if not found.schema.equals(schema(kind)):
        raise RunError(
            f"{path} does not have the columns of {kind.kind!r} as this workbench knows them "
            f"(version {version}, expected {kind.schema_version}). Delete the run folder "
            f"{path.parent} and run its command again."
        )
    return found


def frame(kind: type[Row], parts: Sequence[tuple[str, pa.Table]]) -> pd.DataFrame:
    """Tables of several runs as one frame with the column `run`; lists become float32 arrays."""
    tables = [
        part.append_column("run", pa.array([run] * part.num_rows, pa.string()))
        for run, part in parts
    ]
    empty = schema(kind).append(pa.field("run", pa.string())).empty_table()
    whole = pa.concat_tables(
        [empty.replace_schema_metadata(), *(t.replace_schema_metadata() for t in tables)]
    )
    return whole.select(["run", *columns(kind)]).to_pandas()
