"""How high a figure is and what stands above its panels, counted in lines of its own type."""

from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.figures._style import Theme

SCREEN_WIDTH = 640.0
"""Width that a figure on screen is laid out for (px); it stretches from there."""
KEY = 42.0
"""Width of a legend entry's line and marker, with its gaps (px)."""


def width(theme: Theme) -> float:
    """Width a figure is laid out for (px)."""
    return theme.width or SCREEN_WIDTH


def framed(
    figure: go.Figure,
    theme: Theme,
    *,
    panels: float,
    legend: Sequence[str] = (),
    heads: bool = False,
    axis: bool = True,
) -> go.Figure:
    """Leave room above the panels for legend and heads, below for an axis; note the shape.

    Args:
        figure: the figure, complete but for its margins.
        theme: gives the type.
        panels: height of all panels together (px).
        legend: what the legend says.
        heads: whether panels have titles above them.
        axis: whether there is an axis with title below.
    """
    line = max(1.35 * theme.label, 19.0)  # plotly gives no legend line less
    rows = _rows(
        [KEY + theme.advance * theme.label * len(name) for name in legend], width(theme) - 60
    )
    top = 6 + rows * line + (1.7 * theme.label if heads else 0)
    bottom = 2.0 * theme.small + 1.9 * theme.label + 6 if axis else 4
    figure.update_layout(
        margin={"t": top, "b": bottom},
        legend={"yref": "container", "y": 1, "yanchor": "top", "tracegroupgap": 0},
        meta={**(figure.layout.meta or {}), "aspect": (top + panels + bottom) / width(theme)},
    )
    return figure


def _rows(entries: list[float], room: float) -> int:
    """Lines a legend needs when entries follow one another and wrap."""
    rows, left = 0, 0.0
    for entry in entries:
        if entry > left:
            rows, left = rows + 1, room
        left -= entry
    return rows
