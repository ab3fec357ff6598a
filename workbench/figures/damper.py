"""Dampers by layer: where taking one direction out of the stream stops a push, and at what cost.

The pushes are those of butterfly amplification, named after Yang, Sun, Ma, Liu, Yin & Cheng, "The
butterfly effect of model editing", ACL Findings 2024, arXiv:2402.09656.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import curves
from workbench.figures._panels import FEW
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.figures.amplification import WAYS, by_place
from workbench.rows import Damper

TITLES = {"fall": "gain falls by", "side_effect": "clean states move by"}


@dataclass(frozen=True, kw_only=True)
class DamperParams(Params):
    """What is shown of dampers."""

    checkpoint: Checkpoint = "attacked"
    """The released model, or the attacked one."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    push: Literal["random", "gradient", "steering", "real"] = "gradient"
    """The push to be damped: random, towards compliance, from benign to hazardous, or the way the
    checkpoint went from its reference."""
    positions: Literal["last_prompt", "response"] = "last_prompt"
    """Which tokens were pushed and damped."""


def data(frames: Frames, params: DamperParams) -> pd.DataFrame:
    """One line an arm, measure, seed and layer of the damper."""
    rows = of_checkpoint(frames, Damper, params.checkpoint, params.attack, params.step)
    rows = rows[(rows["family"] == params.push) & (rows["positions"] == params.positions)]
    long = by_place(rows)
    long = long.assign(layer=long["from_layer"] + long["passed"])
    kept = ["arm", "measure", "seed", "step", "from_layer", "layer", "value", "epsilon", "n"]
    return in_order(long[kept], "measure", "seed", "layer")


def plot(table: pd.DataFrame, params: DamperParams, theme: Theme) -> go.Figure:
    """Above what the damper takes away, below what it does to states that nobody pushed."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    arms = list(dict.fromkeys(table["arm"]))
    for row, measure in enumerate(TITLES, 1):
        for arm in arms:
            part = table[(table["arm"] == arm) & (table["measure"] == measure)]
            look = theme.series(arm)
            traces = curves(
                part.assign(step=part["layer"]), "layer", "value", look, theme,
                name=escape(arm), legend=row == 1,
            )  # fmt: skip
            figure.add_traces(traces, rows=row, cols=1)
        figure.update_yaxes(title=TITLES[measure], tickformat=".0%", row=row)
    control = table[table["measure"] == "control"].groupby("layer")["value"].mean()
    figure.add_trace(_control(control, theme), row=1, col=1)
    figure.update_xaxes(title="layer of the damper", row=2)
    if table["layer"].nunique() <= FEW:
        figure.update_xaxes(dtick=1)
    legend = [*arms, "random direction"]
    return framed(figure, theme, panels=24 * theme.label, legend=legend)


def _control(values: pd.Series, theme: Theme) -> go.Scatter:
    return go.Scatter(
        x=values.index.tolist(), y=values.tolist(), mode="lines", name="random direction",
        line={"color": theme.muted, "dash": "dot", "width": theme.stroke},
        hovertemplate="%{x}: %{y:.1%}",
    )  # fmt: skip


def caption(table: pd.DataFrame, params: DamperParams) -> str:
    """Prompts, seeds, the push and the step."""
    starts = ", ".join(map(str, sorted(table["from_layer"].unique())))
    return seeds_and(
        table, f"{int(table['n'].max())} pushes a seed", where(table, params.checkpoint),
        f"{WAYS[params.push]} at layer {starts}, ε = {table['epsilon'].max():g}",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps, pushes and positions that these runs have."""
    found = frames.found(Damper, "attack", "step")
    found |= frames.found(Damper, "family", "positions", stage=None)
    return found | {"push": found.pop("family")}


HELP = """
A push of one layer is followed up to layer L. At the layer of the damper, h becomes
h − ((h − μ)·u) u: u is the main direction (first right singular vector) of what the push has become
there on one half of the prompts, μ their mean clean state, and the damper is tried on the other
half, then the halves change places. Above: 1 − A_damped / A, the share by which the amplification
up to layer L falls; dotted: the same for a random u, mean of all arms. Below: how far the damper
alone moves h_L, over its length. Line: median over seeds; thin: each seed.

Source: a test of this workbench's own; the amplification is named after Yang et al., ACL Findings
2024, arXiv:2402.09656.

What it does not show: a defence. An attacker who knows u pushes across it, and whether answers
survive the damper is measured by other figures. A small fall means that pushes of different prompts
do not share one direction, not that they are harmless.
""".strip()

FIGURE = Figure(
    name="damper",
    title="At which layer can one direction be taken out to stop a push?",
    page="layers",
    needs=(Damper,),
    params=DamperParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
