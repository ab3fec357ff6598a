"""The tokens of a text as ticks below a map of it, upright, with the room that they take."""

from math import ceil
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._layout import width
from workbench.figures._style import Theme
from workbench.figures._text import escape

LONGEST = 9
"""Letters of a token that a tick shows."""


def ticks(table: pd.DataFrame, theme: Theme) -> dict[str, Any]:
    """Tokens where they are known, or as many as fit; else positions.

    Args:
        table: columns `x` (place), `piece` and `response` (position in it), of one text.
        theme: gives type and width.
    """
    places = table.groupby("x")[["piece", "response"]].first()
    every = ceil(len(places) * 1.25 * theme.small / (width(theme) - 9 * theme.label))
    if not places["piece"].any():
        places["piece"] = places["response"].astype(str)
    some = places.iloc[::every]
    words = [escape(piece[:LONGEST]) for piece in some["piece"]]
    return {"tickvals": some.index.tolist(), "ticktext": words, "tickangle": -90,
            "showticklabels": True}  # fmt: skip


def of_one_text(table: pd.DataFrame) -> bool:
    """Whether all maps are of the same tokens; those of two families of models are not."""
    return bool((table.groupby("x")["piece"].nunique() <= 1).all())


def room(table: pd.DataFrame, theme: Theme) -> float:
    """Height of the longest tick beyond that of a line of type (px)."""
    letters = min(LONGEST, int(table["piece"].str.len().max()))
    return max(0.0, 0.62 * theme.small * letters - theme.small)


def with_room(figure: go.Figure, table: pd.DataFrame, theme: Theme) -> go.Figure:
    """More room below, for tokens that stand upright."""
    more = room(table, theme)
    aspect = figure.layout.meta["aspect"] + more / width(theme)
    figure.update_layout(margin_b=figure.layout.margin.b + more)
    return figure.update_layout(meta={**figure.layout.meta, "aspect": aspect})
