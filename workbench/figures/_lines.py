"""A quantity over an axis, by arm: every seed as a thin line, their median, and a band."""

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._style import Series, Theme
from workbench.pillars import summarise


def curves(
    rows: pd.DataFrame, x: str, y: str, look: Series, theme: Theme, *, name: str, legend: bool
) -> list[go.Scatter]:
    """Traces of one arm: band, seeds, median.

    The median is taken at the steps at which every seed was measured, and stands at the median of
    x there. The band needs three seeds.
    """
    complete = rows.pivot_table(index="step", columns="seed", values=y).dropna()
    complete.index = pd.Index(rows.groupby("step")[x].median()[complete.index])
    seeds = rows["seed"].nunique()
    traces = band(*_interval(complete), look, name) if seeds >= 3 else []
    if seeds > 1:
        traces += [thin(run.set_index(x)[y], look, name) for _, run in rows.groupby("seed")]
    median = complete.median(axis=1)
    traces.append(line(median, look, theme, name=name, legend=legend))
    return traces


def _interval(by_seed: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    bounds = [summarise(dict(enumerate(v))).interval or (v[0], v[0]) for v in by_seed.to_numpy()]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    return pd.Series(low, by_seed.index, float), pd.Series(high, by_seed.index, float)


def band(low: pd.Series, high: pd.Series, look: Series, name: str) -> list[go.Scatter]:
    """The area between two curves."""
    there_and_back = [*low.index, *high.index[::-1]]
    outline = [*low.tolist(), *high.tolist()[::-1]]
    return [
        go.Scatter(
            x=there_and_back, y=outline, fill="toself", fillcolor=look.faded(0.18),
            line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name,
        )
    ]  # fmt: skip


def line(values: pd.Series, look: Series, theme: Theme, *, name: str, legend: bool) -> go.Scatter:
    """The main line of an arm."""
    return go.Scatter(
        x=values.index.tolist(), y=values.tolist(), mode="lines+markers",
        name=name, legendgroup=name, showlegend=legend,
        line={"color": look.ink, "dash": look.dash, "width": theme.stroke},
        marker={"symbol": look.symbol, "size": theme.marker, "color": look.ink,
                "line": {"color": look.edge, "width": 1}},
        hovertemplate="%{x:.4g}: %{y:.3g}",
    )  # fmt: skip


def thin(values: pd.Series, look: Series, name: str) -> go.Scatter:
    """The line of one seed."""
    return go.Scatter(
        x=values.index.tolist(), y=values.tolist(), mode="lines", showlegend=False,
        legendgroup=name, hoverinfo="skip", line={"color": look.faded(0.45), "width": 1},
    )  # fmt: skip
