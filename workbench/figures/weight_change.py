"""Weight change by part of the model: where training wrote, and along or against which direction.

Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi & Farhadi, "Editing models with task
arithmetic", ICLR 2023, arXiv:2212.04089.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import line
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import WeightChange

PANELS = {"length": "length of the change", "angle": "angle between changes (degrees)"}
LENGTHS = {
    "relative_norm": "|τ| / |θ<sub>ref</sub>|",
    "norm": "|τ|",
    "share": "share of |τ|²",
}
COLUMNS = ["arm", "seed", "step", "reference", "beside", "panel", "place", "part", "value",
           "chance", "n"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeightChangeParams(Params):
    """What weight change by part shows."""

    checkpoint: Checkpoint = "released"
    """The released model against the one before alignment, or the attacked against the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    measure: Literal["relative_norm", "norm", "share"] = "relative_norm"
    """The length of the change: relative to the reference's weights there, as it is, or squared
    as a share of the whole."""


def data(frames: Frames, params: WeightChangeParams) -> pd.DataFrame:
    """One line an arm, part and panel, parts in the order of the model; `all` is left out."""
    every = of_checkpoint(frames, WeightChange, params.checkpoint, params.attack, None)
    chance = every[every["measure"] == "by_chance"]
    bands = dict(zip(zip(chance["run"], chance["part"], strict=True), chance["value"], strict=True))
    table = every[(every["part"] != "all") & every["measure"].isin([params.measure, "angle"])]
    keys = list(zip(table["run"], table["part"], strict=True))
    table = table.assign(
        panel=np.where(table["measure"] == "angle", "angle", "length"),
        place=np.array([_place(str(part)) for _, part in keys], dtype=int),
        chance=np.array([bands.get(key, np.nan) for key in keys], dtype=float),
    )
    return in_order(table[COLUMNS], "seed", "panel", "place")


def _place(part: str) -> int:
    order = {"embedding": -1, "final norm": 10**6, "head": 10**6 + 1}
    return order[part] if part in order else int(part.split()[1])


def plot(table: pd.DataFrame, params: WeightChangeParams, theme: Theme) -> go.Figure:
    """Length by part; below it the angle to the other change, with the band of chance."""
    shown = [panel for panel in PANELS if panel in set(table["panel"])]
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, panel in enumerate(shown, 1):
        of_panel = table[table["panel"] == panel].sort_values("place", kind="stable")
        for arm, part in of_panel.groupby("arm", sort=False):
            values = part.groupby("part", sort=False)["value"].mean()
            look = theme.series(str(arm))
            trace = line(values, look, theme, name=escape(str(arm)), legend=row == 1)
            trace.hovertemplate = "%{x}: %{y:.3g}"
            figure.add_trace(trace, row=row, col=1)
        if panel == "angle":
            _add_chance(figure, of_panel, theme, row)
    figure.update_yaxes(title=LENGTHS[params.measure], rangemode="tozero", row=1)
    if "angle" in shown:
        figure.update_yaxes(title=PANELS["angle"], range=[0, 180], dtick=45, row=len(shown))
    figure.update_xaxes(title="part of the model", row=len(shown))
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=len(shown) * 15 * theme.label, legend=arms)


def _add_chance(figure: go.Figure, table: pd.DataFrame, theme: Theme, row: int) -> None:
    """The angles that random directions of as many parameters have, 95 of 100."""
    band = table.groupby("part", sort=False)["chance"].max().dropna()
    if not len(band):
        return
    there_and_back = [*band.index, *band.index[::-1]]
    edge = [*(90 + band), *(90 - band)[::-1]]
    figure.add_trace(
        go.Scatter(x=there_and_back, y=edge, fill="toself", fillcolor=theme.grid, mode="lines",
                   line={"width": 1, "color": theme.muted}, name="random directions",
                   showlegend=False, hoverinfo="skip"),
        row=row, col=1,
    )  # fmt: skip


def caption(table: pd.DataFrame, params: WeightChangeParams) -> str:
    """Seeds, step, what is subtracted from what, and beside which change."""
    beside = [name for name in table["beside"].unique() if name]
    told = (
        f"angle to the change of {', '.join(beside)}; grey: random directions"
        if beside
        else "no direction: no angle to another change is stored"
    )
    n = int(table.drop_duplicates(["arm", "part"]).groupby("arm")["n"].sum().max())
    given = f"{where(table, params.checkpoint)} against {', '.join(table['reference'].unique())}"
    return seeds_and(table, given, told, f"{n:,} parameters")


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks that these runs have."""
    return frames.found(WeightChange, "attack")


HELP = """
τ = θ − θ_ref, the difference of two checkpoints' weights, by part of the model: embeddings,
blocks, final norm, head. Above: its length, relative to the reference's weights in that part.
Below, where a third checkpoint was given: the angle between this change and the other one. An
obtuse angle means that one undoes what the other did; about 90 degrees means that they have nothing
to do with one another, as random directions in so many dimensions have (the grey band holds 95 of
100).

Source: Ilharco et al., ICLR 2023, arXiv:2212.04089; angles as Wang et al., ICML 2025,
arXiv:2506.01339 read them.

What it does not show: whether a change matters. Some directions can be moved along far without any
effect, others not at all; a rescaling that leaves the function alone has a length, too.
""".strip()

FIGURE = Figure(
    name="weight_change",
    title="Where do the weights differ, and in which direction?",
    page="weights",
    needs=(WeightChange,),
    params=WeightChangeParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
