"""Quantities over layers as curves: over attack steps at one layer, or over layers at one step."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._checkpoints import of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import curves
from workbench.figures._panels import FEW, GROUPS, beside
from workbench.figures._style import Theme
from workbench.figures._text import escape
from workbench.rows import Row

COLUMNS = ["arm", "group", "measure", "seed", "step", "layer", "value", "n"]
X = {"step": "attack step", "layer": "layer"}
Over = Literal["step", "layer"]
Layer = int | Literal["last"]


def cut(
    frames: Frames, kind: type[Row], params: Any, measures: tuple[str, ...], over: Over
) -> pd.DataFrame:
    """One line an arm, kind of prompt, measure, seed, step and layer, of the layer or step chosen.

    Args:
        frames: rows with `values` over layers, one for each group.
        kind: of these rows.
        params: `checkpoint`, `attack`, `site`, `positions`, `layer` and `step`.
        measures: which to keep.
        over: what x is; of the other the chosen value is kept. Over steps only
            attacked models are shown: released ones have one checkpoint.
    """
    if over == "layer":
        rows = of_checkpoint(frames, kind, params.checkpoint, params.attack, params.step)
    else:
        rows = frames.attacked(kind, params.attack)
    rows = rows[rows["measure"].isin(measures) & rows["group"].isin(list(GROUPS))]
    for name in ("site", "positions"):
        rows = rows[rows[name] == getattr(params, name)]
    layers = rows["values"].map(lambda values: list(range(len(values))))
    long = rows.assign(layer=layers, value=rows["values"])
    long = long.explode(["layer", "value"]).dropna(subset=["value"])
    if over == "step":
        last = long.groupby("run")["layer"].transform("max")
        long = long[long["layer"] == (last if params.layer == "last" else params.layer)]
    long = long[COLUMNS].astype({"layer": int, "value": np.float64})
    return in_order(long, "group", "measure", "seed", "step", "layer")


def panels(
    table: pd.DataFrame, titles: Mapping[str, str], over: Over, theme: Theme, zero: bool = True
) -> go.Figure:
    """One row a measure, one column a kind of prompt, one line an arm; a row shares its y axis."""
    measures = [m for m in titles if m in set(table["measure"])]
    figure, groups = beside(
        table, theme, rows=len(measures), shared_xaxes=True, vertical_spacing=0.06
    )
    for row, measure in enumerate(measures, 1):
        for column, group in enumerate(groups, 1):
            part = table[(table["measure"] == measure) & (table["group"] == group)]
            first = row == column == 1
            figure.add_traces(_lines(part, over, theme, legend=first), rows=row, cols=column)
        figure.update_yaxes(title=titles[measure], row=row, col=1)
    figure.update_xaxes(title=X[over], row=len(measures))
    if over == "layer" and table["layer"].nunique() <= FEW:
        figure.update_xaxes(dtick=1)
    if zero:
        figure.update_yaxes(rangemode="tozero")
    arms = table["arm"].unique().tolist()
    height = 13 * theme.label * len(measures) + 2 * theme.label
    return framed(figure, theme, panels=height, legend=arms, heads=True)


def _lines(part: pd.DataFrame, over: Over, theme: Theme, *, legend: bool) -> list[go.Scatter]:
    return [
        trace
        for arm, of in part.assign(step=part[over]).groupby("arm", sort=False)
        for trace in curves(
            of, over, "value", theme.series(str(arm)), theme, name=escape(str(arm)), legend=legend
        )
    ]


def where(table: pd.DataFrame, over: Over, checkpoint: str) -> str:
    """Which layer or step the curves are of, in words."""
    if over == "step":
        layers = sorted(table["layer"].unique())
        return f"layer {', '.join(map(str, layers))}"
    if checkpoint == "released":
        return "released models"
    return f"attack step {', '.join(map(str, sorted(table['step'].unique())))}"


def found(frames: Frames, kind: type[Row]) -> dict[str, list[Any]]:
    """Attacks, steps, sites, positions and layers that these runs have."""
    rows = frames[kind]
    layers = int(rows["values"].map(len).max()) if len(rows) else 0
    known = frames.found(kind, "attack", "step") | frames.found(
        kind, "site", "positions", stage=None
    )
    return known | {"layer": ["last", *range(layers)]}
