"""What rows say on average, in a few lines of text: for the command line, not for a paper."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from workbench.rows import Row

LINES = 24
"""So many combinations of a table are shown."""
GAP = 2
"""Blanks between two columns."""
IDENTITY = ("example", "stage", "step", "reference", "n")
"""Columns that say which row it is, not what it is about."""


def summarise(rows: Sequence[Row], console: Console) -> None:
    """Print means over examples, one table a kind of row."""
    kinds: dict[type[Row], list[Row]] = {}
    for row in rows:
        kinds.setdefault(type(row), []).append(row)
    for kind, of_kind in kinds.items():
        console.print(f"\n{kind.kind}: {len(of_kind)} rows", highlight=False, style="bold")
        frame = pd.DataFrame([vars(row) for row in of_kind])
        words = [c for c in frame if all(isinstance(x, str | int) for x in frame[c])]
        names = [str(c) for c in words if c not in IDENTITY]
        names = [c for c in names if frame[c].nunique() > 1 or c in ("group", "measure")]
        if "values" in frame:
            axis: str = kind.axis  # type: ignore[attr-defined]
            console.print(_curves(frame, names, axis, console.width))
        elif "value" in frame and names:
            console.print(_numbers(frame, names))


def _curves(frame: pd.DataFrame, names: list[str], axis: str, width: int) -> Table:
    """Means at each place of the axis over the rows that reach it, a line a combination of names.

    Where the places do not fit side by side, the first are shown; of layers, some from the first to
    the last.
    """
    groups = list(frame.groupby(names, sort=False)["values"]) if names else [((), frame["values"])]
    left_out = len(groups) - LINES
    groups = groups[:LINES]
    keys = [key if isinstance(key, tuple) else (key,) for key, _ in groups]
    means = [[f"{x:.3g}" for x in _mean(part)] for _, part in groups]
    longest = max(map(len, means))
    labels = sum(GAP + max(map(len, map(str, column))) for column in zip(names, *keys, strict=True))
    cell = GAP + max((len(number) for line in means for number in line), default=1)
    room = max(1, (width - labels + GAP) // cell)
    places = _some(longest, room) if axis == "layer" else list(range(longest))[:room]
    shown = "" if len(places) == longest else f", {len(places)} of {longest}"
    title = axis.replace("_", " ") + shown
    grid = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for name in names:
        grid.add_column(name, no_wrap=True)
    for place in places:
        grid.add_column(str(place), justify="right", no_wrap=True)
    for words, line in zip(keys, means, strict=True):
        grid.add_row(*map(str, words), *(line[k] if k < len(line) else "" for k in places))
    if left_out > 0:
        grid.caption, grid.caption_justify = f"and {left_out} more lines", "left"
    return grid


def _mean(lists: pd.Series) -> np.ndarray:
    """Means of lists of different lengths, place by place."""
    return pd.DataFrame([pd.Series(np.asarray(x, dtype=float)) for x in lists]).mean().to_numpy()


def _some(places: int, room: int) -> list[int]:
    """So many places at most, evenly from the first to the last."""
    return sorted({round(x) for x in np.linspace(0, places - 1, min(places, room))})


def _numbers(frame: pd.DataFrame, names: list[str]) -> Table:
    """Means of single numbers, a line for each combination of names."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in [*names, "mean", "rows"]:
        grid.add_column(name, justify="right" if name in ("mean", "rows") else "left")
    for key, part in frame.groupby(names, sort=False)["value"]:
        words = key if isinstance(key, tuple) else (key,)
        grid.add_row(*map(str, words), f"{part.mean():.3g}", str(len(part)))
    return grid
