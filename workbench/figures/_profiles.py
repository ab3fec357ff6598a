"""A quantity over positions or layers, by arm: checkpoint, seeds and reference, a panel a group."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._layout import framed
from workbench.figures._lines import line, thin
from workbench.figures._panels import FEW, beside
from workbench.figures._seeds import without_seed
from workbench.figures._style import Series, Theme
from workbench.figures._text import escape

KEYS = ["arm", "group", "step", "reference", "whose", "seed"]
COLUMNS = [*KEYS, "place", "value", "low", "high", "prompts"]


def profiles(rows: pd.DataFrame) -> pd.DataFrame:
    """A tidy table of rows whose lists run over places: a line a run and place, then all seeds.

    All seeds together (seed missing): means weighted by prompts, quartiles averaged alike.
    """
    if not len(rows):
        return pd.DataFrame(columns=COLUMNS).astype({"seed": "Int64"})
    numbers = ["value", "low", "high", "prompts"]
    seeds = pd.concat([_places(row) for _, row in rows.iterrows()], ignore_index=True)
    weighted = seeds.copy()
    weighted[numbers[:3]] = seeds[numbers[:3]].mul(seeds["prompts"], axis=0)
    by = [*KEYS[:-1], "place"]
    means = weighted.groupby(by, as_index=False)[numbers].sum()
    means[numbers[:3]] = means[numbers[:3]].div(means["prompts"], axis=0)
    table = pd.concat([seeds, without_seed(means)], ignore_index=True)[COLUMNS]
    return table.astype({"seed": "Int64"})


def _places(row: pd.Series) -> pd.DataFrame:
    """One row's lists, a line a place; its number of prompts is one for all places or one each."""
    lists = {"value": row["values"], "low": row["low"], "high": row["high"]}
    part = pd.DataFrame({name: np.asarray(x, float) for name, x in lists.items()})
    part["prompts"] = np.asarray(row["prompts"], float)
    part["place"] = np.arange(len(part))
    for name in KEYS:
        part[name] = row[name]
    return part


def draw(table: pd.DataFrame, theme: Theme, *, x: str, y: str, range_: list[float] | None = None
         ) -> go.Figure:  # fmt: skip
    """Thick: the checkpoint; thin: each of its seeds; dotted: its reference."""
    figure, groups = beside(table, theme)
    for column, group in enumerate(groups, 1):
        for arm, part in table[table["group"] == group].groupby("arm", sort=False):
            traces = _traces(part, str(arm), theme, legend=column == 1)
            figure.add_traces(traces, rows=1, cols=column)
    figure.update_xaxes(title=x, dtick=1 if table["place"].max() <= FEW else None)
    figure.update_yaxes(title=y, col=1)
    figure.update_yaxes(**({"rangemode": "tozero"} if range_ is None else {"range": range_}))
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=16 * theme.label, legend=arms, heads=True)


def _traces(part: pd.DataFrame, arm: str, theme: Theme, *, legend: bool) -> list[go.Scatter]:
    look, name = theme.series(arm), escape(arm)
    now, then = (part[part["whose"] == whose] for whose in ("checkpoint", "reference"))
    traces = []
    if now["seed"].nunique() > 1:
        seeds = now[now["seed"].notna()].groupby("seed")
        traces = [thin(one.set_index("place")["value"], look, name) for _, one in seeds]
    pooled = [x[x["seed"].isna()].set_index("place")["value"] for x in (now, then)]
    if len(pooled[1]):
        traces.append(_dotted(pooled[1], look, name))
    if len(pooled[0]):
        traces.append(line(pooled[0], look, theme, name=name, legend=legend))
    return traces


def _dotted(values: pd.Series, look: Series, name: str) -> go.Scatter:
    return go.Scatter(
        x=values.index.tolist(), y=values.tolist(), mode="lines", showlegend=False,
        legendgroup=name, line={"color": look.faded(0.9), "width": 1.5, "dash": "dot"},
        hovertemplate="reference, %{x}: %{y:.3g}<extra></extra>",
    )  # fmt: skip
