"""Entropy by response position: where a model's own answers are still undecided.

Feng, Wang, Wei, Zhang, Gao, Zhan, Lv & Dong, "Token Buncher: shielding LLMs from harmful
reinforcement learning fine-tuning", preprint 2025, arXiv:2508.20697: what reinforcement learning
feeds on.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import InvalidValueError
from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import line, thin
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import ResponseEntropy

REACHED = 0.5
"""Share of the prompts with an answer that reaches a position, for it to be shown."""
COLUMNS = ["arm", "seed", "step", "position", "prompts", "value"]
TITLES = {"entropy": "entropy, nats", "gini": "1 − Σπ²"}


@dataclass(frozen=True, kw_only=True)
class EntropyProfileParams(Params):
    """What entropy by response position shows."""

    checkpoint: Literal["released", "attacked"] = "released"
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
        if self.positions is not None and self.positions < 1:
            raise InvalidValueError(f"positions must be at least 1, not {self.positions}.")


def data(frames: Frames, params: EntropyProfileParams) -> pd.DataFrame:
    """One line an arm, seed (missing: mean over seeds) and response position."""
    if params.checkpoint == "released":
        rows = frames[ResponseEntropy]
        rows = rows[rows["stage"] == "defence"]
        wanted: Any = rows.groupby("run")["step"].transform("max")
    else:
        rows = frames.attacked(ResponseEntropy, params.attack)
        last = rows.groupby("run")["step"].transform("max")
        wanted = last if params.step is None else params.step
    rows = rows[(rows["step"] == wanted) & (rows["measure"] == params.measure)]
    found = [
        {"arm": arm, "seed": seed, "step": step, "position": k, "prompts": n, "value": value}
        for (arm, seed, step), part in rows.groupby(["arm", "seed", "step"])
        for k, n, value in _means(part["values"].tolist(), params.positions)
    ]
    seeds = pd.DataFrame(found, columns=COLUMNS).astype({"seed": "Int64"})
    keys = ["arm", "step", "position"]
    means = seeds.groupby(keys, as_index=False).agg(
        prompts=("prompts", "max"), value=("value", "mean"), seeds=("seed", "nunique")
    )
    every = seeds.groupby("arm")["seed"].nunique()
    means = means[means["seeds"] == means["arm"].map(every)].drop(columns="seeds")
    means["seed"] = pd.array([pd.NA] * len(means), dtype="Int64")
    both = pd.concat([seeds, means[COLUMNS]], ignore_index=True) if len(seeds) else seeds
    return in_order(both, "seed", "position")


def _means(values: list[np.ndarray], most: int | None) -> list[tuple[int, int, float]]:
    """(position, prompts, mean) as far as enough prompts' answers reach."""
    curve = []
    for k in range(min(max(map(len, values)), most or len(max(values, key=len)))):
        reached = [v[k] for v in values if len(v) > k]
        if len(reached) < REACHED * len(values):
            break
        curve.append((k, len(reached), float(np.mean(reached))))
    return curve


def plot(table: pd.DataFrame, params: EntropyProfileParams, theme: Theme) -> go.Figure:
    """One line an arm, a thin one for each of its seeds."""
    figure = go.Figure()
    for arm, part in table.groupby("arm", sort=False):
        look, name = theme.series(str(arm)), escape(str(arm))
        seeds = part[part["seed"].notna()]
        if seeds["seed"].nunique() > 1:
            for _, one in seeds.groupby("seed"):
                figure.add_trace(thin(one.set_index("position")["value"], look, name))
        mean = part[part["seed"].isna()].set_index("position")["value"]
        figure.add_trace(line(mean, look, theme, name=name, legend=True))
    figure.update_xaxes(title="response token (0 is the first)")
    figure.update_yaxes(title=TITLES[params.measure], rangemode="tozero")
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=20 * theme.label, legend=arms)


def caption(table: pd.DataFrame, params: EntropyProfileParams) -> str:
    """Prompts, seeds and step."""
    steps = ", ".join(str(step) for step in sorted(table["step"].unique()))
    where = f"attack step {steps}" if params.checkpoint == "attacked" else "released models"
    n = int(table["prompts"].max())
    return seeds_and(table, f"own answers to {n} hazards, temperature 1", where,
                     "mean over answers, prompts, seeds")  # fmt: skip


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
