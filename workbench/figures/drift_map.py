"""Drift map: prompts move, under attack, in one frozen map of the model's hidden states.

Poličar, Stražar & Zupan, "openTSNE", Journal of Statistical Software 109(3), 2024: new points are
placed into a finished t-SNE, so that checkpoints can be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures import _map_axes, _moves
from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed, width
from workbench.figures._params import Params
from workbench.figures._style import UNDEFENDED, Theme, method_of
from workbench.figures._text import escape
from workbench.rows import DriftMapPoint, MapQuality

DRAWN = 1_500
"""Prompts drawn at most, all panels together: with both ends, the 3000 marks that browsers draw
quickly as SVG (docs/decisions/0006)."""
QUALITY = ("trustworthiness", "knn_kept", "drift", "relative_drift", "arrow_rank", "perplexity")
METHODS = {"tsne": "t-SNE", "pca": "PCA"}
COLUMNS = ["arm", "seed", "seeds", "method", "site", "layer", "positions", "step", "group",
           "example", "x_then", "y_then", "x", "y", "points", *QUALITY]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DriftMapParams(Params):
    """What the drift map shows."""

    checkpoint: Literal["attacked", "released"] = "attacked"
    """From released to attacked model, or from the model before the defence to the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step the arrows lead to; none for the last measured."""
    seed: int | Literal["first"] = "first"
    """Whose map is drawn: every run has its own; first for the least seed of each arm."""
    method: Literal["any", "tsne", "pca"] = "any"
    """How the map was made; any for t-SNE where there is one."""
    site: str = "resid_post"
    """Where in the block the hidden states are read."""


def data(frames: Frames, params: DriftMapParams) -> pd.DataFrame:
    """One line an arm, step and prompt: its place before and at the step, and the map's quality.

    Steps up to the chosen one; of more than `DRAWN` prompts evenly many of each arm and kind.
    """
    points, numbers = (_rows(frames, kind, params) for kind in (DriftMapPoint, MapQuality))
    seeds = points.groupby("arm")["seed"].nunique()
    shown = (
        points.groupby("arm")["seed"].transform("min") if params.seed == "first" else params.seed
    )
    points = points[points["seed"] == shown]
    if params.method == "any":
        best = points.groupby("run")["method"].transform("max")  # tsne comes after pca
        points = points[points["method"] == best]
    last = points.groupby("run")["step"].transform("max")
    upto = last if params.step is None else params.step
    points = points[(points["step"] <= upto) & (last >= upto)]
    if params.step is not None:
        points = points[points.groupby("run")["step"].transform("max") == params.step]
    points = points.assign(
        seeds=points["arm"].map(seeds),
        points=points.groupby(["run", "step"])["x"].transform("size"),
    )
    where = ["run", "step", "method", "site", "layer", "positions"]
    wide = numbers.pivot_table(index=where, columns="measure", values="value").reset_index()
    table = points.merge(wide, on=where, how="left").reindex(columns=COLUMNS)
    return in_order(_sampled(table), "step", "group", "example")


def _rows(frames: Frames, kind: Any, params: DriftMapParams) -> pd.DataFrame:
    attacked = params.checkpoint == "attacked"
    rows = frames.attacked(kind, params.attack) if attacked else frames[kind]
    rows = rows[rows["stage"] == ("attack" if attacked else "defence")]
    if params.method != "any":
        rows = rows[rows["method"] == params.method]
    return rows[rows["site"] == params.site]


def _sampled(table: pd.DataFrame) -> pd.DataFrame:
    """Every k-th prompt of each arm and kind, the same ones at every step."""
    prompts = table[["arm", "group", "example"]].drop_duplicates()
    every = max(1, ceil(len(prompts) / DRAWN))
    place = prompts.groupby(["arm", "group"]).cumcount()
    return table.merge(prompts[place % every == 0], on=["arm", "group", "example"])


def plot(table: pd.DataFrame, params: DriftMapParams, theme: Theme) -> go.Figure:
    """One map an arm, each with axes of its own; on screen the steps can be played."""
    arms = list(dict.fromkeys(table["arm"]))
    columns = min(2, len(arms))
    rows = ceil(len(arms) / columns)
    panel = 0.9 * width(theme) / max(columns, 1.4) * _map_axes.height(table)
    gap = 2.0 * theme.small + 2.2 * theme.label  # what stands under a map, and over the next
    height = rows * panel + (rows - 1) * gap
    figure = make_subplots(
        rows=rows, cols=columns, horizontal_spacing=0.03, vertical_spacing=gap / height,
        subplot_titles=[escape(arm) for arm in arms],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    changing = {}
    for k, (arm, of_arm) in enumerate(table.groupby("arm", sort=False)):
        where = {"row": k // columns + 1, "col": k % columns + 1}
        before, after = _shapes(str(arm), params)
        final = of_arm[of_arm["step"] == of_arm["step"].max()]
        for _, part in final.groupby("group", sort=False):
            figure.add_trace(_moves.start(part, before, theme), **where)
            changing[len(figure.data)] = part
            figure.add_traces(
                _moves.moved(part, after, theme), rows=where["row"], cols=where["col"]
            )
        figure.update_xaxes(title=_map_axes.said(final), range=_map_axes.span(of_arm, "x"), **where)
        figure.update_yaxes(range=_map_axes.span(of_arm, "y"), **where)
    _map_axes.bare(figure, theme)
    legend = _legend(figure, table, params, theme)
    if theme.width is None and table["step"].nunique() > 1:
        _play(figure, table, changing, params, theme)
    return framed(figure, theme, panels=height, legend=legend, heads=True)


def _shapes(arm: str, params: DriftMapParams) -> tuple[str, str]:
    """Which checkpoints an arm's arrows lead from and to, as they are marked in every figure."""
    released = "aligned" if method_of(arm)[0] == UNDEFENDED else "immunised"
    return ("base", released) if params.checkpoint == "released" else (released, "attacked")


def _legend(
    figure: go.Figure, table: pd.DataFrame, params: DriftMapParams, theme: Theme
) -> list[str]:
    """Colours for kinds of prompt, shapes for checkpoints; returns what it says."""
    groups = [group for group in _moves.GROUPS if group in set(table["group"])]
    keys = [(_moves.GROUPS[group], "dot", _moves.colour(group, theme)) for group in groups]
    shapes = sorted({shape for arm in table["arm"].unique() for shape in _shapes(arm, params)})
    keys += [(shape, shape, theme.muted) for shape in _moves.SHAPES if shape in shapes]
    figure.add_traces([_moves.key(*each, theme) for each in keys])
    return [name for name, _, _ in keys]


def _play(
    figure: go.Figure,
    table: pd.DataFrame,
    changing: Mapping[int, pd.DataFrame],
    params: DriftMapParams,
    theme: Theme,
) -> None:
    """A frame for every step that all arms have, and a button that plays them.

    Args:
        figure: gets the frames.
        table: all steps.
        changing: number of the first of an arm's and group's two traces that move, to its rows.
        params: the figure's.
        theme: gives the button its type.
    """
    at = dict(list(table.groupby(["arm", "group", "step"])))
    kinds = [tuple(part[["arm", "group"]].iloc[0]) for part in changing.values()]
    steps = [s for s in sorted(table["step"].unique()) if all((*kind, s) in at for kind in kinds)]
    figure.frames = [
        go.Frame(
            name=str(step),
            traces=[number + moves for number in changing for moves in (0, 1)],
            data=[
                trace
                for kind in kinds
                for trace in _moves.moved(at[*kind, step], _shapes(kind[0], params)[1], theme)
            ],
        )
        for step in steps
    ]
    how = {"frame": {"duration": 700, "redraw": False}, "transition": {"duration": 350},
           "mode": "immediate"}  # fmt: skip
    button = {"label": "▶ play steps", "method": "animate", "args": [list(map(str, steps)), how]}
    figure.update_layout(updatemenus=[{
        "type": "buttons", "buttons": [button], "showactive": False, "x": 1, "xanchor": "right",
        "y": 1, "yanchor": "bottom", "pad": {"b": 4, "t": 0, "r": 0}, "bgcolor": theme.ground,
        "bordercolor": theme.grid, "font": {"size": theme.small, "color": theme.ink},
    }])  # fmt: skip


def caption(table: pd.DataFrame, params: DriftMapParams) -> str:
    """Seeds, how the map was made, how much of it is drawn and what its numbers are."""
    seeds, points = int(table["seeds"].max()), int(table["points"].max())
    final = table[table["step"] == table.groupby("arm")["step"].transform("max")]
    drawn = int(final.groupby("arm").size().max())
    first = table.iloc[0]
    method = METHODS[str(first["method"])]
    if first["perplexity"] > 0:
        method += f" (perplexity {first['perplexity']:.3g})"
    steps = ", ".join(map(str, sorted(final["step"].unique())))
    return " · ".join(
        [
            f"{seeds} seed{'s' if seeds != 1 else ''}",
            f"map of seed {', '.join(map(str, sorted(table['seed'].unique())))}",
            f"{method} of {first['site']}, layer {first['layer']}, {first['positions']}",
            f"{points} prompts" if drawn == points else f"{drawn} of {points} prompts drawn",
            "released models" if params.checkpoint == "released" else f"attack step {steps}",
            "under each map trustworthiness, share of nearest neighbours kept, and mean |h − h₀| "
            "over mean |h₀| in the full space",
        ]
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    known = frames.found(DriftMapPoint, "attack", "step")
    known |= frames.found(DriftMapPoint, "site", "seed", "method", stage=None)
    return known | {"seed": ["first", *known["seed"]], "method": ["any", *known["method"]]}


HELP = """
Each prompt's hidden state at one layer as a point of the plane. The map is fitted once, on the
model that the attack started from (hazardous and benign prompts together), and frozen; the states
of later checkpoints are placed into it, each by itself. A line leads from where a prompt was to
where it is at the attack step; both ends are placed in the same way, so a state that did not move
has no line. t-SNE: PCA to 50, perplexity 30 (or a third of the other points), exaggeration 12 for
250 steps, then 500. Under each map: trustworthiness (1: every neighbour on the map is one in the
full space), the share of the 10 nearest neighbours kept, and the drift in the full space.

Source: openTSNE, Poličar, Stražar & Zupan, Journal of Statistical Software 109(3), 2024; drift:
Huang, Hu & Liu, NeurIPS 2024, arXiv:2402.01109.

What it does not show: distance. t-SNE keeps neighbours, not lengths or gaps: a long line need not
be a large drift, two far clusters need not be far apart, and a state unlike any the map was fitted
on is still drawn among them, since there is nowhere else. Read the drift number, and look at PCA
before believing a picture. Maps of different arms or seeds have nothing in common; each is of one
run. It is an illustration, never evidence alone.
""".strip()

FIGURE = Figure(
    name="drift_map",
    title="Where do prompts go in a frozen map of the states?",
    page="drift",
    needs=(DriftMapPoint, MapQuality),
    params=DriftMapParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
