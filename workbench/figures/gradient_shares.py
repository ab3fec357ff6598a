"""Shares of the common gradient by group of text: who is learnt, who starves, who is unlearnt.

Pezeshki, Kaba, Bengio, Courville, Precup & Lajoie, NeurIPS 2021, arXiv:2011.09468, on gradient
starvation; Chen et al., ICML 2025, arXiv:2506.03850, on groups that alignment leaves vulnerable.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import curves
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import GradientCosine, GradientShare

MEASURES = {
    "share": "share of the gradient",
    "norm": "norm of the group’s gradient",
    "gsnr": "signal / noise",
    "cosine": "cosine",
}
COLUMNS = ["run", "arm", "attack", "seed", "panel", "step", "value", "n", "level"]
ACROSS = 3
"""Panels beside one another, at most."""
PANEL = 14
"""Height of a panel, in letters."""


@dataclass(frozen=True, kw_only=True)
class GradientSharesParams(Params):
    """What shares of the gradient show."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    group_by: Literal["kind", "domain", "cluster"] = "kind"
    """Groups by kind of text, by the questions' domain, or by clusters of gradients."""
    measure: Literal["share", "norm", "gsnr", "cosine"] = "share"
    """Share of the mean gradient, norm, signal to noise, or the cosine between two groups."""


def data(frames: Frames, params: GradientSharesParams) -> pd.DataFrame:
    """One line a run, group (or pair of groups) and attack step."""
    kind = GradientCosine if params.measure == "cosine" else GradientShare
    rows = frames.attacked(kind, params.attack)
    if not len(rows):
        rows = frames[kind]  # released models, where none was attacked
    rows = rows[rows["group_by"] == params.group_by]
    if kind is GradientShare:
        rows = rows[rows["measure"] == params.measure]
        totals = rows.groupby(["run", "step"])["n"].transform("sum")
        rows = rows.assign(panel=rows["group"], level=rows["n"] / totals)
    else:
        pairs = [f"{a} · {b}" for a, b in zip(rows["group"], rows["other"], strict=True)]
        rows = rows.assign(panel=pairs, level=0.0)
    rows = rows.assign(place=_places(rows["panel"]))
    return in_order(rows, "place", "seed", "step")[COLUMNS]


def _places(panels: pd.Series) -> list[int]:
    """The place of each panel: groups as they were written first."""
    order = {panel: place for place, panel in enumerate(dict.fromkeys(panels))}
    return [order[panel] for panel in panels]


def plot(table: pd.DataFrame, params: GradientSharesParams, theme: Theme) -> go.Figure:
    """One panel a group, on shared axes; a dotted line where every group has its due."""
    panels = list(dict.fromkeys(table["panel"]))
    columns = min(ACROSS, len(panels))
    count = ceil(len(panels) / columns)
    height, between = PANEL * theme.label, 3.6 * theme.label
    whole = count * height + (count - 1) * between
    figure = make_subplots(
        rows=count, cols=columns, shared_yaxes="all", shared_xaxes="all", horizontal_spacing=0.04,
        vertical_spacing=between / whole if count > 1 else 0,
        subplot_titles=[escape(panel) for panel in panels],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    named: set[str] = set()
    for place, panel in enumerate(panels):
        row, column = place // columns + 1, place % columns + 1
        of_panel = table[table["panel"] == panel]
        for arm, part in of_panel.groupby("arm", sort=False):
            look = theme.series(str(arm))
            figure.add_traces(
                curves(part, "step", "value", look, theme, name=escape(str(arm)),
                       legend=arm not in named),
                rows=row, cols=column,
            )  # fmt: skip
            named.add(str(arm))
        if params.measure in ("share", "cosine"):
            for level in {0.0, float(of_panel["level"].median())}:
                figure.add_hline(
                    level, row=row, col=column, line_width=1, line_color=theme.muted,
                    line_dash="solid" if level == 0 else "dot",
                )  # fmt: skip
    figure.update_xaxes(title="attack step", row=count)
    figure.update_yaxes(title=MEASURES[params.measure], col=1)
    if params.measure == "cosine":
        figure.update_yaxes(range=[-1.05, 1.05])
    if params.measure in ("norm", "gsnr"):
        figure.update_yaxes(type="log", exponentformat="power")
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=whole, legend=arms, heads=True)


def caption(table: pd.DataFrame, params: GradientSharesParams) -> str:
    """Seeds, attack, examples of a group, and what the lines are."""
    low, high = int(table["n"].min()), int(table["n"].max())
    n = str(low) if low == high else f"{low} to {high}"
    attack = str(table["attack"].iloc[0])
    due = ["dotted: the group’s share of the examples"] if params.measure == "share" else []
    of = "two groups" if params.measure == "cosine" else "a group"
    return seeds_and(
        table, attack or "released models", f"n={n} examples of {of}", "median over seeds", *due
    )


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks and groupings that these runs have."""
    groups = sorted(frames[GradientShare]["group_by"].unique().tolist())
    return {"group_by": groups} | frames.found(GradientShare, "attack")


HELP = """
Examples of several groups are taken as one set of training data: hazards answered with compliance,
benign requests answered rightly, hazards refused. With ḡ_g the mean gradient of group g's loss, ḡ
that of all N examples, the group's share is s_g = (n_g / N) ⟨ḡ_g, ḡ⟩ / ‖ḡ‖². Shares sum to 1; the
dotted line is n_g / N, the share of a group whose gradient is like all others'. Below zero, a step
that lowers the loss of all together raises the group's. Signal / noise is ‖ḡ_g‖² over the variance
of the group's gradients, both summed over parameters.

Source: Pezeshki et al., NeurIPS 2021, arXiv:2011.09468, for starvation; Chen et al., ICML 2025,
arXiv:2506.03850, for groups that fare unequally; Liu et al., ICLR 2020, arXiv:2001.07384, for
signal to noise.

What it does not show: what training on other mixtures would do; the attacker trains on hazards
alone. A share is small when a group is learnt already, too: look at the norm beside it. Plain
gradients are compared, not Adam's steps, and a handful of examples stands for each group.
""".strip()

FIGURE = Figure(
    name="gradient_shares",
    title="Which groups of text get their share of the gradient?",
    page="training",
    needs=(GradientShare, GradientCosine),
    params=GradientSharesParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
