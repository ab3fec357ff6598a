"""Figures: rows in, plotly figure out. One function serves dashboard, notebook and paper.

    from workbench.figures import FIGURES, run_figure
    run_figure("attack_budget", store, runs=["vaccine-s0.sft-1c08f250"], phi=0.4)

Nothing here loads torch: a machine without it redraws every figure from run folders.
"""

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from workbench.errors import UnknownNameError
from workbench.figures import (
    _base,
    attack_budget,
    drift_by_layer,
    four_pillars,
    kl_by_position,
)
from workbench.figures._base import Figure, Missing
from workbench.figures._frames import Frames, load
from workbench.figures._params import Params, make_params
from workbench.figures._style import DARK, LIGHT, SCREEN, Theme
from workbench.figures.config import GRAPH_CONFIG
from workbench.store import RunHeader, Store

__all__ = [
    "DARK",
    "FIGURES",
    "GRAPH_CONFIG",
    "LIGHT",
    "SCREEN",
    "Figure",
    "Frames",
    "Missing",
    "Params",
    "Theme",
    "figure",
    "load",
    "make_params",
    "run_figure",
]

FIGURES: dict[str, Figure] = {
    each.FIGURE.name: each.FIGURE
    for each in (four_pillars, attack_budget, kl_by_position, drift_by_layer)
}
"""Every figure, by name."""


def figure(name: str) -> Figure:
    """A figure by name.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest.
    """
    if name not in FIGURES:
        raise UnknownNameError("figure", name, FIGURES)
    return FIGURES[name]


def run_figure(
    name: str,
    store: Store,
    runs: Iterable[str | RunHeader] | None = None,
    theme: Theme = LIGHT,
    **params: Any,
) -> go.Figure:
    """Draw a figure of the runs of a store.

    Args:
        name: a key of `FIGURES`.
        store: where the runs are.
        runs: ids or headers; None for all finished runs.
        theme: how it looks; `LIGHT`, `DARK`, or a venue's (`workbench.figures.venues`).
        **params: the figure's parameters, e.g. `phi=0.4`.

    Raises:
        UnknownNameError: no such figure, run or parameter.
        InvalidValueError: a parameter out of range.
    """
    return _base.run_figure(figure(name), store, runs, theme, **params)
