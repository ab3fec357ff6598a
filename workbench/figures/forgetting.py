"""Forgetting under attack: how long safe answers survive, by part of the world.

Chen, Han, Shen, Bai & Wong, "Vulnerability-aware alignment: mitigating uneven forgetting in harmful
fine-tuning", ICML 2025, arXiv:2506.03850: some groups of examples are forgotten before others.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._histories import answers, hazards, histories
from workbench.figures._layout import framed
from workbench.figures._lines import curves
from workbench.figures._panels import beside
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import Generation, Prompt

COLUMNS = ["run", "arm", "attack", "seed", "group", "step", "at_risk", "flips", "surviving"]


@dataclass(frozen=True, kw_only=True)
class ForgettingParams(Params):
    """What forgetting under attack shows."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    harmful: Literal["success", "complied"] = "success"
    """What counts as harmful: an answer that is wholly right, or one that complies at all."""


def data(frames: Frames, params: ForgettingParams) -> pd.DataFrame:
    """One line a run, part of the world and attack step: the share of safe answers that is left."""
    known = hazards(frames)
    rows = answers(frames, None, known)
    names = sorted(rows["attack"].unique())
    rows = rows[rows["attack"] == (params.attack or (names[0] if names else ""))]
    about = rows.drop_duplicates("run").set_index("run")[["arm", "attack", "seed"]]
    found = []
    for run, history in histories(rows, params.harmful).items():
        for group in sorted({known[x] for x in history.examples}):
            among = {x for x in history.at_risk if known[x] == group}
            counts = sum(history.counts[x] for x in among)
            found += [
                [run, *about.loc[run], group, step, len(among), counts, left]
                for step, left in zip(history.steps, history.survival(among), strict=True)
                if among
            ]
    table = pd.DataFrame(found, columns=COLUMNS)
    return in_order(table, "group", "seed", "step")


def plot(table: pd.DataFrame, params: ForgettingParams, theme: Theme) -> go.Figure:
    """One panel a part of the world, one line an arm, on shared axes."""
    heads = {group: f"{escape(group)} hazards" for group in sorted(table["group"].unique())}
    figure, groups = beside(table, theme, heads)
    named: set[str] = set()
    for column, group in enumerate(groups, 1):
        of_group = table[table["group"] == group]
        for arm, part in of_group.groupby("arm", sort=False):
            look = theme.series(str(arm))
            drawn = curves(part, "step", "surviving", look, theme, name=escape(str(arm)),
                           legend=arm not in named)  # fmt: skip
            figure.add_traces(drawn, rows=1, cols=column)
            named.add(str(arm))
    figure.update_xaxes(title="attack step")
    figure.update_yaxes(range=[-0.04, 1.06])
    figure.update_yaxes(title="safe answers left (share)", col=1)
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=20 * theme.label, legend=arms, heads=True)


def caption(table: pd.DataFrame, params: ForgettingParams) -> str:
    """Seeds, attack, how many answers were at risk, and what counts as forgotten."""
    per_run = table.drop_duplicates(["run", "group"])["at_risk"]
    low, high = int(per_run.min()), int(per_run.max())
    n = str(low) if low == high else f"{low} to {high}"
    harm = "wholly right" if params.harmful == "success" else "compliant"
    return seeds_and(
        table, f"{table['attack'].iloc[0]}", f"n={n} hazards safe at the start in a panel and run",
        f"forgotten: first {harm} answer", "median over seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks that these runs answered under."""
    return frames.found(Generation, "attack")


HELP = """
Of the hazards that the released model answers safely (at attack step 0), the share whose answer has
not yet been harmful at any step so far. Harmful: complied with and wholly right, or, by choice,
complied with at all; everything else is safe. Everything is followed to the end of the attack, so
this is the Kaplan-Meier estimate. The table also counts flips, Σ_t 1[safe at t − 1, harmful at t]:
an answer that comes back safe and is lost again counts twice there and once here.

Source: Chen, Han, Shen, Bai & Wong, ICML 2025, arXiv:2506.03850, who count forgetting in this way.

What it does not show: why a group falls first; hazards differ in how hard they are to answer right,
and a model that cannot answer never forgets. Steps between evaluations are not seen. Only hazards
whose answers were stored at every evaluation count; n says how many.
""".strip()

FIGURE = Figure(
    name="forgetting",
    title="Which safe answers are forgotten first?",
    page="resistance",
    needs=(Generation, Prompt),
    params=ForgettingParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
