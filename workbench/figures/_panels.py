"""Grids of panels: a kind of prompt beside the other, an arm below the other, one colour scale."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._style import Theme
from workbench.figures._text import escape

GROUPS = {"hazard": "hazardous prompts", "benign": "benign prompts"}
FEW = 12
"""So many places on an axis can each have a tick."""


def beside(
    table: pd.DataFrame, theme: Theme, heads: Mapping[str, str] = GROUPS, *,
    column: str = "group", **grid: Any,
) -> tuple[go.Figure, list[str]]:  # fmt: skip
    """Empty panels side by side on shared axes, and what each of them is for.

    Args:
        table: what will be drawn.
        theme: gives the type.
        heads: what may stand in the column, in order, and what to write above its panel.
        column: which tells the panels apart.
        **grid: more options of plotly's `make_subplots`.
    """
    shown = [name for name in heads if name in set(table[column])]
    options = {"rows": 1, "shared_yaxes": True, "horizontal_spacing": 0.04} | grid
    titles = [heads[name] for name in shown]
    figure = make_subplots(cols=len(shown), column_titles=titles, **options)
    figure.update_annotations(font_size=theme.label)
    return figure, shown


def heatmaps(
    table: pd.DataFrame, theme: Theme, cell: Callable[[pd.DataFrame], go.Heatmap]
) -> go.Figure:
    """One row an arm, one column a kind of prompt; whatever was not measured stays empty."""
    arms = list(dict.fromkeys(table["arm"]))
    figure, groups = beside(
        table, theme, rows=len(arms), shared_xaxes=True, horizontal_spacing=0.03,
        vertical_spacing=_gap(len(arms)), row_titles=[escape(arm) for arm in arms],
    )  # fmt: skip
    for row, arm in enumerate(arms, 1):
        for column, group in enumerate(groups, 1):
            part = table[(table["arm"] == arm) & (table["group"] == group)]
            if len(part):
                figure.add_trace(cell(part), row=row, col=column)
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)
    return figure


def height(arms: int, each: float) -> float:
    """Height of so many rows of `heatmaps` together, of one row's height (px)."""
    return arms * each / (1 - _gap(arms) * (arms - 1))


def _gap(rows: int) -> float:
    """Share of the height between two rows; many rows must leave some of it for themselves."""
    return min(0.04, 0.5 / rows)


def colour_bar(theme: Theme, title: str, **more: Any) -> dict[str, Any]:
    """A colour scale's key, its title along its side."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": theme.label}},
        "tickfont": {"size": theme.small}, "thickness": theme.label, "outlinewidth": 0, **more,
    }  # fmt: skip
