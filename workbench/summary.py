"""What rows say on average, in a few lines of text: for the command line, not for a paper."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from workbench.rows import Row

COLUMNS = 12
"""So many columns fit on a screen."""
PLACES = 24
"""So many places of an axis are shown."""
IDENTITY = ("example", "stage", "step", "reference", "n")
"""Columns that say which row it is, not what it is about."""


def summarise(rows: Sequence[Row], console: Console) -> None:
    """Print means over examples, one table a kind of row."""
    kinds: dict[type[Row], list[Row]] = {}
    for row in rows:
        kinds.setdefault(type(row), []).append(row)
    for kind, of_kind in kinds.items():
        console.print(f"{kind.kind}: {len(of_kind)} rows", highlight=False, style="bold")
        frame = pd.DataFrame([vars(row) for row in of_kind])
        words = [c for c in frame if all(isinstance(x, str | int) for x in frame[c])]
        names = [str(c) for c in words if c not in IDENTITY]
        names = [c for c in names if frame[c].nunique() > 1 or c in ("group", "measure")]
        if "values" in frame:
            console.print(_curves(frame, names, kind.axis))  # type: ignore[attr-defined]
        elif "value" in frame and names:
            console.print(_numbers(frame, names))


def _curves(frame: pd.DataFrame, names: list[str], axis: str) -> Table:
    """Means at each place of the axis, over the rows that reach it."""
    groups = frame.groupby(names, sort=False)["values"] if names else [((), frame["values"])]
    means = {
        key: pd.DataFrame([pd.Series(np.asarray(v, dtype=float)) for v in part]).mean()
        for key, part in list(groups)[:COLUMNS]
    }
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column(axis.replace("_", " "), justify="right")
    for key in means:
        words = key if isinstance(key, tuple) else (key,)
        grid.add_column(", ".join(map(str, words)), justify="right")
    for place, line in pd.DataFrame(means).head(PLACES).iterrows():
        grid.add_row(str(place), *["" if pd.isna(x) else f"{x:.3g}" for x in line])
    return grid


def _numbers(frame: pd.DataFrame, names: list[str]) -> Table:
    """Means of single numbers, a line for each combination of names."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in [*names, "mean", "rows"]:
        grid.add_column(name, justify="right" if name in ("mean", "rows") else "left")
    for key, part in frame.groupby(names, sort=False)["value"]:
        words = key if isinstance(key, tuple) else (key,)
        grid.add_row(*map(str, words), f"{part.mean():.3g}", str(len(part)))
    return grid
