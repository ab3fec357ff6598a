"""Directional drift: whether an attack drags the states towards the harmful ones, or just moves.

The direction of a concept as a difference of means: Marks & Tegmark, COLM 2024, arXiv:2310.06824;
Arditi et al., NeurIPS 2024, arXiv:2406.11717.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _by_layer
from workbench.figures._base import Figure
from workbench.figures._by_layer import Layer, Over
from workbench.figures._frames import Frames
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.rows import DirectionalDrift

LEAST_GAP = 0.01
"""Of the mean norm of the states; in layers with less, numbers in gaps mean nothing."""
TITLES = {"along": "towards harm, gaps", "orthogonal": "across, gaps"}


@dataclass(frozen=True, kw_only=True)
class DirectionalDriftParams(Params):
    """What directional drift shows."""

    checkpoint: Literal["attacked", "released"] = "attacked"
    """The attacked model against the released one, or the released against the one before it."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    over: Over = "step"
    """What x is; released models have one checkpoint, so theirs is the layer."""
    layer: Layer = "last"
    """Which layer, over steps; counted from 0."""
    step: int | None = None
    """Attack step, over layers; none for the last measured."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""
    positions: str = "last_prompt"
    """Which tokens were averaged."""


def _over(params: DirectionalDriftParams) -> Over:
    return "layer" if params.checkpoint == "released" else params.over


def data(frames: Frames, params: DirectionalDriftParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, part of the shift, seed, step and layer.

    Over layers, those in which the two kinds of prompt have hardly a gap are left out.
    """
    table = _by_layer.cut(frames, DirectionalDrift, params, (*TITLES, "gap"), _over(params))
    gaps = table[table["measure"] == "gap"]
    table = table[table["measure"] != "gap"].reset_index(drop=True)
    if _over(params) == "layer":
        narrow = gaps.groupby("layer")["value"].min() < LEAST_GAP
        table = table[~table["layer"].isin(narrow.index[narrow])].reset_index(drop=True)
    return table


def plot(table: pd.DataFrame, params: DirectionalDriftParams, theme: Theme) -> go.Figure:
    """Above the part along the direction, below the part across it."""
    figure = _by_layer.panels(table, TITLES, _over(params), theme)
    figure.add_hline(y=0, line={"color": theme.muted, "width": 1}, row=1)
    return figure


def caption(table: pd.DataFrame, params: DirectionalDriftParams) -> str:
    """Prompts, seeds, where the states were read, and which layers are left out."""
    shown = set(table["layer"]) if _over(params) == "layer" else set()
    narrow = sorted(set(range(max(shown, default=0))) - shown) if shown else []
    return seeds_and(
        table, f"{int(table['n'].max())} prompts of each kind and seed",
        _by_layer.where(table, _over(params), params.checkpoint),
        f"{params.site}, {params.positions}",
        "1 gap: from the mean benign to the mean hazardous state of the reference",
        *([f"without layer {', '.join(map(str, narrow))}: no gap"] if narrow else []),
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    return _by_layer.found(frames, DirectionalDrift)


HELP = """
Where the mean hidden state of a kind of prompt went, relative to the model that the attack started
from. With u the unit vector from that model's mean benign to its mean hazardous state and g the
distance between the two, along = (mean of h_t − h_0)·u / g and orthogonal = what is left of the
mean shift, over g. Along 1: as far towards the hazardous states as they lay from the benign ones;
negative: away from them. along² + orthogonal² is the squared length of the mean shift in gaps.
Thick line: median over seeds; thin: each seed; band: 95 % interval over seeds, from three on.

Source: the direction is a difference of means as in Marks & Tegmark, COLM 2024, arXiv:2310.06824;
the drift is Huang, Hu & Liu's, NeurIPS 2024, arXiv:2402.01109.

What it does not show: single prompts (a mean shift of 0 may hide two halves that moved apart), and
whether the direction is about harm: it is whatever separates the two kinds of prompts, topic and
wording included. In d dimensions a random shift has along² of 1/d of the whole, so a small along
share is no sign of design. In low layers at the last prompt token the gap can be tiny, since that
token is the same in all prompts: layers with a gap below 1 % of the states' norm are left out.
""".strip()

FIGURE = Figure(
    name="directional_drift",
    title="Does the attack drag states towards the harmful ones?",
    page="drift",
    needs=(DirectionalDrift,),
    params=DirectionalDriftParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
