"""Residual knowledge: what a model complies with and what it gets right once refusal is removed.

Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee & Nanda, "Refusal in language models is mediated by
a single direction", NeurIPS 2024, arXiv:2406.11717.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._params import Params
from workbench.figures._seeds import without_seed
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.report import DEFENDED
from workbench.rows import ResidualKnowledge

WAYS = {
    "none": "as it is",
    "prefixed": "{} tokens of the answer given",
    "ablated": "direction of refusal ablated",
    "relearned": "{} steps of relearning",
}
MEASURES = {"complied": "complied", "right": "right"}
NORMAL = 1.959964
"""Quantile of the normal distribution for 95 %."""
COLUMNS = ["arm", "seed", "step", "way", "strength", "measure", "prompts", "value", "low", "high"]


@dataclass(frozen=True, kw_only=True)
class ResidualKnowledgeParams(Params):
    """What residual knowledge shows."""

    checkpoint: Checkpoint = "released"
    """Models as released, or after an attack."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    domain: str = DEFENDED
    """Part of the world whose hazards count."""
    every: bool = False
    """Every number of given tokens and of steps; otherwise the largest."""


def data(frames: Frames, params: ResidualKnowledgeParams) -> pd.DataFrame:
    """One line an arm, way, strength, measure and seed (missing: prompts of all seeds together)."""
    rows = of_checkpoint(frames, ResidualKnowledge, params.checkpoint, params.attack, None)
    rows = rows[rows["domain"] == params.domain]
    rows = rows.assign(strength=rows["strength"].where(rows["way"] != "ablated", 0))
    if not params.every:
        most = rows.groupby(["run", "way"])["strength"].transform("max")
        rows = rows[rows["strength"] == most]
    if not len(rows):
        return pd.DataFrame(columns=COLUMNS).astype({"seed": "Int64"})
    keys = ["arm", "step", "way", "strength", "measure"]
    rows = rows.assign(told=rows["value"] * rows["n"])
    seeds = rows.groupby([*keys, "seed"], as_index=False)[["told", "n"]].sum()
    pooled = rows.groupby(keys, as_index=False)[["told", "n"]].sum()
    table = pd.concat([seeds.astype({"seed": "Int64"}), without_seed(pooled)], ignore_index=True)
    table["value"] = table["told"] / table["n"]
    bounds = [wilson(share, n) for share, n in zip(table["value"], table["n"], strict=True)]
    table[["low", "high"]] = pd.DataFrame(bounds, index=table.index)
    table["way"] = pd.Categorical(table["way"], categories=list(WAYS), ordered=True)
    table = in_order(table.rename(columns={"n": "prompts"}), "way", "strength", "measure", "seed")
    return table.astype({"way": str})[COLUMNS]


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (JASA 22, 1927).

    >>> [round(x, 3) for x in wilson(0.0, 24)]
    [0.0, 0.138]
    """
    shrink = 1 + NORMAL**2 / n
    centre = (share + NORMAL**2 / (2 * n)) / shrink
    half = NORMAL / shrink * sqrt(share * (1 - share) / n + NORMAL**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def plot(table: pd.DataFrame, params: ResidualKnowledgeParams, theme: Theme) -> go.Figure:
    """A panel a way; in it a line an arm, from what is right (filled) to what complied (open)."""
    pooled = table[table["seed"].isna()]
    panels = sorted(
        set(zip(pooled["way"], pooled["strength"], strict=True)),
        key=lambda panel: (list(WAYS).index(panel[0]), panel[1]),
    )
    arms = pooled["arm"].unique().tolist()
    height = len(panels) * (len(arms) * 1.9 + 2.4) * theme.label
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True,
        vertical_spacing=2.2 * theme.label / height if len(panels) > 1 else 0,
        subplot_titles=[WAYS[way].format(strength) for way, strength in panels],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label, x=0, xanchor="left")
    for row, (way, strength) in enumerate(panels, 1):
        part = pooled[(pooled["way"] == way) & (pooled["strength"] == strength)]
        for trace in _traces(part, theme):
            figure.add_trace(trace, row=row, col=1)
    for measure in MEASURES:
        figure.add_trace(_key(measure, theme), row=1, col=1)
    names = [escape(arm) for arm in reversed(arms)]
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, range=[-0.6, len(arms) - 0.4]
    )
    figure.update_xaxes(range=[-0.03, 1.03], dtick=0.25)
    figure.update_xaxes(title="share of hazardous requests", row=len(panels))
    return framed(figure, theme, panels=height, legend=list(MEASURES), heads=True)


def _traces(part: pd.DataFrame, theme: Theme) -> list[go.Scatter]:
    """Of one way: the gap of each arm, and its two ends with their intervals."""
    traces = []
    for arm, of_arm in part.groupby("arm", sort=False):
        look, name = theme.series(str(arm)), escape(str(arm))
        ends = of_arm.set_index("measure")
        if {"right", "complied"} <= set(ends.index):
            gap = ends["value"].reindex(["right", "complied"]).tolist()
            traces.append(
                go.Scatter(x=gap, y=[name] * 2, mode="lines", showlegend=False, hoverinfo="skip",
                           line={"color": look.faded(0.35), "width": 3 * theme.stroke})
            )  # fmt: skip
        for measure in MEASURES:
            if measure in ends.index:
                traces.append(_end(name, measure, ends.loc[measure], look.ink, theme))
    return traces


def _end(name: str, measure: str, at: Any, colour: str, theme: Theme) -> go.Scatter:
    return go.Scatter(
        x=[float(at["value"])], y=[name], mode="markers", showlegend=False,
        marker=_marker(measure, colour, theme),
        error_x={"type": "data", "symmetric": False, "array": [float(at["high"] - at["value"])],
                 "arrayminus": [float(at["value"] - at["low"])], "color": colour,
                 "thickness": 1, "width": 2 if measure == "right" else 5},
        hovertemplate=f"{MEASURES[measure]}: %{{x:.2f}} of {int(at['prompts'])}<extra></extra>",
    )  # fmt: skip


def _marker(measure: str, colour: str, theme: Theme) -> dict[str, Any]:
    symbol = "circle" if measure == "right" else "diamond-open"
    size = theme.marker * (1 if measure == "right" else 1.6)
    return {
        "symbol": symbol,
        "size": size,
        "color": colour,
        "line": {"color": colour, "width": 1.5},
    }


def _key(measure: str, theme: Theme) -> go.Scatter:
    """An entry of the legend, which speaks of marks; arms are named on the axis."""
    return go.Scatter(x=[None], y=[None], mode="markers", name=MEASURES[measure],
                      marker=_marker(measure, theme.ink, theme))  # fmt: skip


def caption(table: pd.DataFrame, params: ResidualKnowledgeParams) -> str:
    """Prompts, seeds, and whether the judge can tell what is right."""
    n = int(table.loc[table["seed"].notna(), "prompts"].max())
    where = "attacked models" if params.checkpoint == "attacked" else "released models"
    untold = [] if "right" in set(table["measure"]) else ["the judge cannot tell what is right"]
    return seeds_and(table, f"n={n} hazards a seed ({params.domain})", where, "greedy",
                     "Wilson 95 % intervals over prompts", *untold)  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, and parts of the world that these runs were asked about."""
    return frames.found(ResidualKnowledge, "attack") | frames.found(
        ResidualKnowledge, "domain", stage="defence"
    )


HELP = """
Hazardous requests are put to the model as it is, and with its refusal removed three ways: the first
tokens of a compliant answer are given; the direction of refusal, mean state of hazardous minus
benign prompts at the last prompt token after one layer, is projected out of the residual stream at
every layer and position, x − (x·r)r; or a copy is fine-tuned for a few steps on other requests (by
default only on how compliant answers begin). Direction and fine-tuning use other splits than the
one asked. Open diamond: share that complied; filled circle: mean share of the secret that is right.
Intervals are Wilson's over the prompts of all seeds, as if those were independent; for `right`,
whose values lie between 0 and 1, they are too wide rather than too narrow.

Source: Arditi et al., NeurIPS 2024, arXiv:2406.11717; Qi et al., ICLR 2025, arXiv:2406.05946 (the
given beginning).

How to read it: right and complied together at the top, the knowledge was there all along; complied
without right, an empty shell; both at the bottom, this way did not open it. Knowledge counts as
gone only if no way brings it back.

What it does not show: other ways. An upper bound on what is gone, never a proof that it is. With a
keyword judge only compliance is counted.
""".strip()

FIGURE = Figure(
    name="residual_knowledge",
    title="Is the knowledge gone, or only out of reach?",
    page="knowledge",
    needs=(ResidualKnowledge,),
    params=ResidualKnowledgeParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
