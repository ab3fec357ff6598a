"""What stands around a map of points, which has no units: its span, its height, its quality."""

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._style import Theme
from workbench.figures._text import MISSING


def said(part: pd.DataFrame) -> str:
    """What to think of a map, under it."""
    first = part.iloc[0]
    names = {"trustworthiness": "trust", "knn_kept": "kept", "relative_drift": "drift"}
    return " · ".join(
        f"{name} {MISSING if pd.isna(first[column]) else format(first[column], '.2f')}"
        for column, name in names.items()
    )


def span(part: pd.DataFrame, axis: str) -> list[float]:
    """What an axis shows: all steps, so that it holds still while they play."""
    values = part[[axis, f"{axis}_then"]].to_numpy(float)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


def height(table: pd.DataFrame) -> float:
    """Height of the panels over their width, so that the tallest map about fills its own."""
    spans = [
        (high - low) / (right - left)
        for _, part in table.groupby("arm")
        for (low, high), (left, right) in [(span(part, "y"), span(part, "x"))]
    ]
    return min(1.0, max(0.5, *spans))


def bare(figure: go.Figure, theme: Theme) -> None:
    """A map has no units: no ticks, and one scale for both of its axes."""
    axis = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True}
    figure.update_xaxes(**axis, title_font_size=theme.small, title_standoff=3)
    figure.update_yaxes(**axis)
    for x, y in zip(figure.select_xaxes(), figure.select_yaxes(), strict=True):
        y.update(scaleanchor=str(x.plotly_name).replace("axis", ""))
