"""Entropy by response position: where a model's own answers are still undecided.

Feng, Wang, Wei, Zhang, Gao, Zhan, Lv & Dong, "Token Buncher: shielding LLMs from harmful
reinforcement learning fine-tuning", preprint 2025, arXiv:2508.20697: what reinforcement learning
feeds on.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._params import Params
from workbench.figures._reached import along, require_positive
from workbench.figures._seeds import seed_lines, with_means
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.rows import ResponseEntropy

COLUMNS = ["arm", "seed", "step", "position", "prompts", "value"]
TITLES = {"entropy": "entropy, nats", "gini": "1 − Σπ²"}


@dataclass(frozen=True, kw_only=True)
class EntropyProfileParams(Params):
    """What entropy by response position shows."""

    checkpoint: Checkpoint = "released"
    """Models as released, or after an attack."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    measure: Literal["entropy", "gini"] = "entropy"
    """Entropy in nats, or the Gini impurity that the bound is made of."""
    positions: int | None = None
    """Show so many response positions at most; none for all that half of the prompts reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("positions", self.positions)


def data(frames: Frames, params: EntropyProfileParams) -> pd.DataFrame:
    """One line an arm, seed (missing: mean over seeds) and response position."""
    rows = of_checkpoint(frames, ResponseEntropy, params.checkpoint, params.attack, params.step)
    rows = rows[rows["measure"] == params.measure]
    found = [
        {"arm": arm, "seed": seed, "step": step, "position": k, "prompts": n, "value": value}
        for (arm, seed, step), part in rows.groupby(["arm", "seed", "step"])
        for k, n, value in along(part["values"].tolist(), params.positions)
    ]
    table = with_means(pd.DataFrame(found, columns=COLUMNS), ["arm", "step", "position"], "value")
    return in_order(table, "seed", "position")


def plot(table: pd.DataFrame, params: EntropyProfileParams, theme: Theme) -> go.Figure:
    """One line an arm, a thin one for each of its seeds."""
    figure = seed_lines(table, "position", "value", theme)
    figure.update_xaxes(title="response token (0 is the first)")
    figure.update_yaxes(title=TITLES[params.measure], rangemode="tozero")
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=20 * theme.label, legend=arms)


def caption(table: pd.DataFrame, params: EntropyProfileParams) -> str:
    """Prompts, seeds and step."""
    n = int(table["prompts"].max())
    return seeds_and(
        table, f"own answers to {n} hazards, temperature 1", where(table, params.checkpoint),
        "mean over answers, prompts, seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks and steps that these runs have."""
    return frames.found(ResponseEntropy, "attack", "step")


HELP = """
H_t = −Σ_v π_t(v) log π_t(v) in nats at each position of answers that the model itself sampled at
temperature 1 to hazardous requests; or 1 − Σ_v π_t(v)², which is never larger and stands in the
bound on the policy gradient. A position's value is the mean over the rollouts of a prompt that
reach it, then over prompts and seeds; thin lines are single seeds. Positions that the answers to
fewer than half of the prompts reach are left out.

Source: Feng et al., preprint 2025, arXiv:2508.20697.

What it does not show: whether a position's alternatives differ in what they give away. A model
undecided between ways to refuse has entropy and no harm in it. Later positions are averages over
the longer answers only.
""".strip()

FIGURE = Figure(
    name="entropy_profile",
    title="Where are the model's own answers undecided?",
    page="reinforcement",
    needs=(ResponseEntropy,),
    params=EntropyProfileParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
