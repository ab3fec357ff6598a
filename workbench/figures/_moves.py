"""Points that move in a map, as traces: where they were, where they are, and the way between."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._style import DIVERGING, Theme
from workbench.figures._text import escape
from workbench.figures.colour import readable, rgba

GROUPS = {"hazard": "hazardous", "benign": "benign", "refused": "refused", "framed": "framed"}
SHAPES = {
    "dot": "circle",
    "base": "square-open",
    "aligned": "circle-open",
    "immunised": "triangle-up-open",
    "attacked": "x-thin",
}
"""Every checkpoint keeps its shape in all figures; a dot stands for none of them."""


def colour(group: str, theme: Theme) -> str:
    """Hazards at the warm end of the diverging scale, everything benign at the cool one."""
    end = DIVERGING[0] if group == "benign" else DIVERGING[-1]
    return readable(end[1], theme.ground, 3.0)


def start(part: pd.DataFrame, shape: str, theme: Theme) -> go.Scatter:
    """Where the points of a group were: one line a prompt in `part`."""
    ink = colour(str(part["group"].iloc[0]), theme)
    return go.Scatter(
        x=part["x_then"].tolist(), y=part["y_then"].tolist(), mode="markers", showlegend=False,
        marker=_mark(shape, ink, theme), hovertext=part["example"].map(escape).tolist(),
        hovertemplate="%{hovertext}, before<extra></extra>",
    )  # fmt: skip


def moved(part: pd.DataFrame, shape: str, theme: Theme) -> tuple[go.Scatter, go.Scatter]:
    """The arrows of a group at one step: shafts, and a mark where each ends."""
    ink = colour(str(part["group"].iloc[0]), theme)
    shafts = go.Scatter(
        x=_between(part["x_then"], part["x"]), y=_between(part["y_then"], part["y"]), mode="lines",
        line={"color": rgba(ink, 0.4), "width": max(0.75, theme.stroke / 2)},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    ends = go.Scatter(
        x=part["x"].tolist(), y=part["y"].tolist(), mode="markers", showlegend=False,
        marker=_mark(shape, ink, theme), hovertext=part["example"].map(escape).tolist(),
        hovertemplate="%{hovertext}, step " + str(part["step"].iloc[0]) + "<extra></extra>",
    )  # fmt: skip
    return shafts, ends


def key(name: str, shape: str, ink: str, theme: Theme) -> go.Scatter:
    """An entry of the legend that stands for no trace of its own."""
    mark = _mark(shape, ink, theme)
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=mark)


def _mark(shape: str, ink: str, theme: Theme) -> dict[str, object]:
    line = {"color": ink, "width": max(1.0, theme.stroke * 0.7)}
    return {"symbol": SHAPES[shape], "color": ink, "size": theme.marker * 0.85, "line": line}


def _between(a: pd.Series, b: pd.Series) -> list[float | None]:
    """Starts and ends, with a gap after each pair."""
    flat = np.stack([a.to_numpy(float), b.to_numpy(float), np.full(len(a), np.nan)], axis=1).ravel()
    return [None if np.isnan(value) else float(value) for value in flat]
