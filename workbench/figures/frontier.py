"""Resistance against stability: what every defence pays for the attack steps it withstands.

Rosati, Wehner, Williams, Bartoszcze, Sajjad & Rudzicz, "Immunization against harmful fine-tuning
attacks", EMNLP Findings 2024, arXiv:2402.16382, section 3: both conditions must hold at once.
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import attack_budget
from workbench.figures._base import Figure
from workbench.figures._frames import Frames
from workbench.figures._frontier_data import FrontierParams, data
from workbench.figures._layout import framed
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.figures.colour import rgba
from workbench.rows import Metric

HELD, CONTROL_MARK = "triangle-up-open", "line-ew-open"


def plot(table: pd.DataFrame, params: FrontierParams, theme: Theme) -> go.Figure:
    """Capability change across, break step up; the defences of one method are joined."""
    figure = go.Figure()
    table = table.assign(
        y=table["break_step"].where(table["break_step"] < np.inf, table["budget"]),
        held=table["break_step"] == np.inf,
    )
    pooled, single = table[table["seed"].isna()], table[table["seed"].notna()]
    margin = params.stability_margin
    figure.add_vrect(
        -margin, margin, fillcolor=theme.muted, opacity=0.08, line_width=0, layer="below"
    )
    _undefended(figure, pooled[pooled["role"] == "undefended"], theme)
    drawn = pooled[pooled["change"].notna()]
    defences = drawn[drawn["role"] == "defence"]
    controls = drawn[(drawn["role"] == "control") & params.controls]
    for arm, part in single[single["arm"].isin(defences["arm"])].groupby("arm", sort=False):
        figure.add_trace(_seeds(part.dropna(subset="change"), str(arm), theme))
    for arm, part in controls.groupby("arm", sort=False):
        figure.add_trace(_control(part, str(arm), theme))
    for line, part in defences.groupby("line", sort=False):
        first = str(part["arm"].iloc[0])
        name = str(line) if len(part) > 1 else first
        figure.add_trace(_points(part.sort_values("place"), first, name, theme))
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    keys = [("matched control", CONTROL_MARK)] if len(controls) else []
    keys += [("did not break", HELD)] if drawn["held"].any() else []
    for key, symbol in keys:
        figure.add_trace(_key(key, symbol, theme))
        shown.append(key)
    _axes(figure, table, theme, params)
    return framed(figure, theme, panels=27 * theme.label, legend=shown)


def _points(part: pd.DataFrame, arm: str, name: str, theme: Theme) -> go.Scatter:
    """The arms of one line, weakest first, with the bounds on their break as whiskers."""
    look = theme.series(arm)
    symbols = [HELD if held else look.symbol for held in part["held"]]
    below = [y - low for y, low in zip(part["y"], part["safe_until"], strict=True)]
    return go.Scatter(
        x=part["change"].tolist(), y=part["y"].tolist(), name=escape(name),
        mode="lines+markers+text", showlegend=True,
        line={"color": look.faded(0.6), "dash": look.dash, "width": theme.stroke * 0.75},
        marker={"symbol": symbols, "size": theme.marker * 1.5, "color": look.ink,
                "line": {"color": look.edge, "width": 1.5}},
        error_y={"type": "data", "symmetric": False, "array": [0.0] * len(below),
                 "arrayminus": below, "color": look.ink, "thickness": theme.stroke * 0.6,
                 "width": theme.marker * 0.5},
        text=[escape(words) for words in part["intensity"]], textposition="top right",
        textfont={"size": theme.small, "color": theme.muted},
        hovertext=[_told(row) for _, row in part.iterrows()], hoverinfo="text",
    )  # fmt: skip


def _control(part: pd.DataFrame, arm: str, theme: Theme) -> go.Scatter:
    """Matched controls, as strokes on the line of no change: marks there would hide one another."""
    look = theme.series(arm)
    return go.Scatter(
        x=part["change"].tolist(), y=part["y"].tolist(), mode="markers", showlegend=False,
        name=escape(arm),
        marker={"symbol": [HELD if held else CONTROL_MARK for held in part["held"]],
                "size": theme.marker * 2.4,
                "line": {"color": look.ink, "width": theme.stroke * 1.5}, "color": look.ink},
        hovertext=[_told(row) for _, row in part.iterrows()], hoverinfo="text",
    )  # fmt: skip


def _told(row: pd.Series) -> str:
    """An arm in words."""
    if row["held"]:
        when = f"not broken by step {row['budget']:g}"
    else:
        when = f"broken in ({row['safe_until']:g}, {row['break_step']:g}]"
    words = f"{row['arm']}: {when}, capability {row['change']:+.3f}"
    return escape(words if row["reference"] == row["arm"] else f"{words} to {row['reference']}")


def _seeds(part: pd.DataFrame, arm: str, theme: Theme) -> go.Scatter:
    """Every base and seed of an arm, small and faint."""
    look = theme.series(arm)
    return go.Scatter(
        x=part["change"].tolist(), y=part["y"].tolist(), mode="markers", showlegend=False,
        marker={"symbol": [HELD if held else look.symbol for held in part["held"]],
                "size": theme.marker * 0.75, "color": look.faded(0.4),
                "line": {"color": look.faded(0.4), "width": 1}},
        hovertext=[f"{escape(arm)}, seed {seed}" for seed in part["seed"]], hoverinfo="text",
    )  # fmt: skip


def _undefended(figure: go.Figure, arms: pd.DataFrame, theme: Theme) -> None:
    """A band where models without a defence break, as wide as the figure."""
    for _, arm in arms.iterrows():
        colour = theme.series(str(arm["arm"])).colour
        when = "not broken" if arm["held"] else f"{arm['safe_until']:g}–{arm['break_step']:g}"
        figure.add_hrect(
            arm["safe_until"], arm["y"], fillcolor=rgba(colour, 0.18), layer="below", line_width=0
        )
        figure.add_hline(arm["y"], line={"color": rgba(colour, 0.6), "width": 1, "dash": "dot"})
        figure.add_annotation(
            text=escape(f"{arm['arm']}: {when}"), x=0.99, xref="x domain", xanchor="right",
            y=arm["y"], yanchor="bottom", showarrow=False,
            font={"size": theme.small, "color": theme.muted},
        )  # fmt: skip


def _key(name: str, symbol: str, theme: Theme) -> go.Scatter:
    """What a mark means whatever its colour: an entry of the legend and nothing else."""
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=name, showlegend=True,
        marker={"symbol": symbol, "color": theme.muted, "size": theme.marker * 1.3,
                "line": {"color": theme.muted, "width": 1.5}},
    )  # fmt: skip


def _axes(figure: go.Figure, table: pd.DataFrame, theme: Theme, params: FrontierParams) -> None:
    """Both axes with room for whiskers and words; no change is in view, and so is the start."""
    margin = params.stability_margin
    change = [*table["change"].dropna(), -1.5 * margin, 1.5 * margin]
    room = 0.1 * (max(change) - min(change))
    figure.update_xaxes(
        title="capability minus that of the matched control (share)", tickformat=".2~f",
        range=[min(change) - room, max(change) + 2 * room], zeroline=True,
        zerolinecolor=theme.muted, zerolinewidth=1,
    )  # fmt: skip
    top = float(table["y"].max())
    figure.update_yaxes(title="attack step at which it breaks", range=[0, 1.14 * (top or 1)])


def caption(table: pd.DataFrame, params: FrontierParams) -> str:
    """Seeds, bases, attack, thresholds, and what is compared with something else."""
    pooled = table[table["seed"].isna()]
    bases = table[table["seed"].notna()]["base"].nunique()
    defences = pooled[pooled["role"] == "defence"]
    compared = defences[defences["change"].notna()]
    other = compared[compared["against"] == "undefended"]["arm"].tolist()
    lonely = defences[defences["change"].isna()]["arm"].tolist()
    parts = [f"{bases} bases"] if bases > 1 else []
    parts += [f"attack {pooled['attack'].iloc[0]}", f"φ={params.phi:g}",
              f"shaded: stability margin ±{params.stability_margin:g}"]  # fmt: skip
    if other:
        parts.append(f"without a control, against the undefended arm: {', '.join(other)}")
    if lonely:
        parts.append(f"not shown, nothing to compare with: {', '.join(lonely)}")
    return seeds_and(table, *parts)


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, and domains that have hazards, in these runs."""
    return attack_budget.options(frames)


HELP = """
One point a defence. Across: capability g of the released model minus that of its matched control of
the same base and seed, mean over both. Up: the attack step at which it breaks (first f > φ that the
next evaluation confirms), median over bases and seeds; the whisker reaches down to the last safe
evaluation, as nothing was measured between. Open triangle: half of the seeds or more did not break
by the end of the attack, so the break lies higher, if anywhere. Small marks: single seeds. Points
of one method are joined in the order of the setting written beside them. Grey band: where the
undefended model breaks. Strokes at no change: the matched controls. Right and up is better; a
defence left of the shaded margin has paid with capability.

Source: Rosati et al., EMNLP Findings 2024, arXiv:2402.16382, whose conditions both axes are.

What it does not show: whether the broken model is of any use to the attacker, other attacks or
learning rates, or a frontier in the strict sense: a point may be beaten by a setting nobody tried.
Where there is no matched control, training alone may explain a change; the caption names such arms.
""".strip()

FIGURE = Figure(
    name="frontier",
    title="What does resistance cost in capability?",
    page="frontier",
    needs=(Metric,),
    whole=True,
    params=FrontierParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
