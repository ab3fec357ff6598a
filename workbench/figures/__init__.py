"""Figures: rows in, plotly figure out. One function serves dashboard, notebook and paper.

    from workbench.figures import run_figure
    run_figure("attack_budget", Store("runs"), phi=0.4).show()

Nothing here loads torch: a machine without it redraws every figure from run folders.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench.errors import UnknownNameError
from workbench.figures import (
    amplification,
    attack_budget,
    cosine_by_layer,
    cosine_map,
    damper,
    directional_drift,
    drift_by_layer,
    drift_map,
    entropy_profile,
    forgetting,
    forgotten_overlap,
    four_pillars,
    frontier,
    gradient_shares,
    kl_by_position,
    latent_nll,
    lens_by_layer,
    prefill,
    probe_by_layer,
    residual_knowledge,
    rl_bound,
    shallowness,
    similarity_by_layer,
    token_gradients,
    token_movers,
    token_profile,
    training_terms,
    weight_change,
)
from workbench.figures._base import Figure, Missing
from workbench.figures._frames import Frames, arm_names, flattened, load, newest
from workbench.figures._layout import SCREEN_WIDTH
from workbench.figures._params import Params, make_params
from workbench.figures._style import DARK, LIGHT, SCREEN, Theme, arm_order, method_of
from workbench.figures.browser import Browser, Format
from workbench.figures.config import GRAPH_CONFIG
from workbench.figures.export import Exported, export
from workbench.figures.venues import paper
from workbench.store import RunHeader, Store

__all__ = [
    "DARK",
    "FIGURES",
    "GRAPH_CONFIG",
    "LIGHT",
    "SCREEN",
    "SCREEN_WIDTH",
    "Browser",
    "Exported",
    "Figure",
    "Frames",
    "Missing",
    "Params",
    "Theme",
    "arm_names",
    "arm_order",
    "export",
    "export_all",
    "figure",
    "flattened",
    "load",
    "make_params",
    "method_of",
    "newest",
    "paper",
    "run_figure",
]

FIGURES: dict[str, Figure] = {
    each.FIGURE.name: each.FIGURE
    for each in (
        four_pillars,
        attack_budget,
        forgetting,
        forgotten_overlap,
        frontier,
        kl_by_position,
        shallowness,
        token_profile,
        token_movers,
        prefill,
        drift_by_layer,
        directional_drift,
        similarity_by_layer,
        drift_map,
        cosine_map,
        cosine_by_layer,
        probe_by_layer,
        lens_by_layer,
        latent_nll,
        amplification,
        damper,
        weight_change,
        training_terms,
        token_gradients,
        gradient_shares,
        entropy_profile,
        rl_bound,
        residual_knowledge,
    )
}
"""Every figure, by name, page by page. To add one: its file, and its module here."""


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
        theme: how it looks: `LIGHT`, `DARK`, or a venue's, from `paper`.
        **params: the figure's parameters, e.g. `phi=0.4`.

    Raises:
        UnknownNameError: no such figure, run or parameter.
        InvalidValueError: a parameter out of range.
    """
    chosen = figure(name)
    given = chosen.given(params)
    return chosen.draw(load(store, runs, chosen.needs), given, theme)


def export_all(
    store: Store,
    runs: Iterable[str | RunHeader] | None,
    directory: Path,
    *,
    venue: str = "neurips",
    width: str = "column",
    formats: Sequence[Format] = ("pdf", "png"),
    **params: Any,
) -> list[Exported]:
    """Export every figure that these runs have rows for, with one browser.

    Args:
        store: where the runs are.
        runs: ids or headers; None for all finished runs.
        directory: where the files go.
        venue: whose page the figures fit.
        width: `column` or `full`.
        formats: kinds of picture; none are made without a browser.
        **params: parameters for the figures that have them, e.g. `phi=0.4`.

    Raises:
        UnknownNameError: no such venue, width, run, or parameter of any figure.
        RunError: a file cannot be written.
    """
    theme = paper(venue, width)
    names = {name for each in FIGURES.values() for name in each.params.__dataclass_fields__}
    for name in params:
        if name not in names:
            raise UnknownNameError("figure parameter", name, names)
    needs = {kind for each in FIGURES.values() for kind in each.needs}
    frames, done = load(store, runs, needs), []
    with Browser() as browser:
        for each in FIGURES.values():
            known = {f: x for f, x in params.items() if f in each.params.__dataclass_fields__}
            lacks = each.missing(frames, each.given(known))
            done.append(
                Exported(figure=each.name, files=(), problem=str(lacks)) if lacks else
                export(each, frames, directory, theme, browser, params=known, formats=formats)
            )  # fmt: skip
    return done
