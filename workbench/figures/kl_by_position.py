"""KL divergence by response position: where a checkpoint spends its distance from the reference.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946, section 2: aligned models differ from their
base model mostly in the first few response tokens.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import band, line, thin
from workbench.figures._panels import beside
from workbench.figures._params import Params
from workbench.figures._reached import REACHED, require_positive
from workbench.figures._style import Series, Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import TokenKL


@dataclass(frozen=True, kw_only=True)
class KLByPositionParams(Params):
    """What KL by response position shows."""

    checkpoint: Checkpoint = "released"
    """The released model against the one before alignment, or the attacked against the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    average: Literal["median", "mean"] = "median"
    """What stands for the prompts: the median, with the middle half as a band, or the mean."""
    group: Literal["both", "hazard", "benign"] = "both"
    """Which prompts."""
    measure: Literal["forward_kl", "reverse_kl", "js"] = "forward_kl"
    """KL(checkpoint || reference), the other way round, or the symmetric Jensen-Shannon."""
    log: bool = False
    """Logarithmic KL axis; zeros cannot be shown on it."""
    positions: int | None = None
    """Show so many response positions at most; none for all that half of the prompts reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("positions", self.positions)


def data(frames: Frames, params: KLByPositionParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, seed (missing: all seeds pooled) and position."""
    rows = _rows(frames, params)
    parts = []
    keys = ["arm", "group", "step", "reference"]
    for names, part in rows.groupby(keys):
        for seed, of_seed in [*part.groupby("seed"), (pd.NA, part)]:
            profile = _profile(of_seed["values"], params)
            profile[[*keys, "seed"]] = [*names, seed]
            parts.append(profile)
    order = ["arm", "group", "step", "reference", "seed", "position", "prompts",
             "median", "low", "high", "mean"]  # fmt: skip
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=order)
    return in_order(table[order].astype({"seed": "Int64"}), "group", "seed", "position")


def _rows(frames: Frames, params: KLByPositionParams) -> pd.DataFrame:
    rows = of_checkpoint(frames, TokenKL, params.checkpoint, params.attack, params.step)
    if params.group != "both":
        rows = rows[rows["group"] == params.group]
    return rows[rows["measure"] == params.measure]


def _profile(values: pd.Series, params: KLByPositionParams) -> pd.DataFrame:
    """Quartiles and mean over prompts at each position, as far as enough prompts reach."""
    lists = values.tolist()
    padded = np.full((len(lists), max(map(len, lists))), np.nan)
    for row, numbers in zip(padded, lists, strict=True):
        row[: len(numbers)] = numbers
    whole = pd.DataFrame(padded)
    reached = whole.notna().sum()
    whole = whole.loc[:, reached >= REACHED * len(whole)].iloc[:, : params.positions]
    quartiles = whole.quantile([0.25, 0.5, 0.75])
    return pd.DataFrame(
        {
            "position": whole.columns,
            "prompts": reached[whole.columns],
            "median": quartiles.loc[0.5],
            "low": quartiles.loc[0.25],
            "high": quartiles.loc[0.75],
            "mean": whole.mean(),
        }
    )


def plot(table: pd.DataFrame, params: KLByPositionParams, theme: Theme) -> go.Figure:
    """One panel a kind of prompt, on shared axes."""
    figure, groups = beside(table, theme)
    if params.log:
        numbers = ["median", "mean", "low", "high"]
        table = table.assign(**{name: table[name].where(table[name] > 0) for name in numbers})
    for column, group in enumerate(groups, 1):
        of_group = table[table["group"] == group]
        for arm, part in of_group.groupby("arm", sort=False):
            look = theme.series(str(arm))
            traces = _traces(
                part, escape(str(arm)), look, theme, params.average, legend=column == 1
            )
            figure.add_traces(traces, rows=1, cols=column)
    figure.update_xaxes(title="response token (0 is the first)")
    title = _y_title(table, params)
    figure.update_yaxes(title=title, col=1)
    figure.update_yaxes(
        **({"type": "log", "exponentformat": "power"} if params.log else {"rangemode": "tozero"})
    )
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=16 * theme.label, legend=arms, heads=True)


def _traces(
    part: pd.DataFrame, arm: str, look: Series, theme: Theme, average: str, *, legend: bool
) -> list[go.Scatter]:
    pooled = part[part["seed"].isna()].set_index("position")
    inside = pooled[["low", "high"]].dropna()
    traces = band(inside["low"], inside["high"], look, arm) if average == "median" else []
    seeds = part[part["seed"].notna()]
    if seeds["seed"].nunique() > 1:
        by_seed = seeds.groupby("seed")
        traces += [thin(one.set_index("position")[average], look, arm) for _, one in by_seed]
    return [*traces, line(pooled[average], look, theme, name=arm, legend=legend)]


def _y_title(table: pd.DataFrame, params: KLByPositionParams) -> str:
    pair = [params.checkpoint, str(table["reference"].iloc[0])]
    if params.measure == "reverse_kl":
        pair.reverse()
    return f"{'JS' if params.measure == 'js' else 'KL'}({' || '.join(pair)}), nats"


def caption(table: pd.DataFrame, params: KLByPositionParams) -> str:
    """Prompts, seeds and step."""
    pooled = table[table["seed"].isna()]
    first = int(pooled["prompts"].max() / max(1, table["seed"].nunique()))
    steps = ", ".join(str(step) for step in sorted(table["step"].unique()))
    where = f"attack step {steps}" if params.checkpoint == "attacked" else "released models"
    return seeds_and(
        table, f"{first} prompts of each kind and seed", where,
        "median, band: middle half of the prompts" if params.average == "median" else "mean",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps and measures that these runs have."""
    found = frames.found(TokenKL, "attack", "step")
    return found | frames.found(TokenKL, "measure", stage=None)


HELP = """
D_KL(p || q) at each position of the same fixed response (teacher forcing), over the whole
vocabulary, in nats; p is the checkpoint, q the reference. Released models are compared with the
model before alignment, attacked ones with the released model. Line: median over the prompts of all
seeds; thin lines: median of each seed; band: the middle half of the prompts (quartiles, not a
confidence interval). Positions that fewer than half of the prompts reach are left out.

Source: Qi et al., ICLR 2025, arXiv:2406.05946, who found aligned models to differ from their base
in the first few tokens.

What it does not show: whether the difference matters for behaviour; a large KL at a position can
be a rewording. The median hides single positions with a large KL in a minority of prompts: compare
the mean in the table. Zero everywhere is exact for a checkpoint compared with itself.
""".strip()

FIGURE = Figure(
    name="kl_by_position",
    title="At which response tokens does the model differ from its reference?",
    page="tokens",
    needs=(TokenKL,),
    params=KLByPositionParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
