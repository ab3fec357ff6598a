"""Depth of the KL budget: how few tokens hold what two checkpoints differ in.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946, section 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._params import Params
from workbench.figures._style import Theme, arm_order
from workbench.figures._text import escape, seeds_and
from workbench.rows import TokenKL
from workbench.shallowness import differences, intervals, padded

HEADS = {
    "depth_50": "tokens for 50 %",
    "depth_90": "tokens for 90 %",
    "share_5": "first five’s share",
}
COLUMNS = ["arm", "group", "step", "seed", "summary", "prompts", "value", "low", "high",
           "baseline", "difference", "difference_low", "difference_high"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ShallownessParams(Params):
    """What the depth of the KL budget shows."""

    checkpoint: Checkpoint = "released"
    """The released model against the one before alignment, or the attacked against the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    group: Literal["hazard", "benign"] = "hazard"
    """Which prompts."""
    measure: Literal["forward_kl", "reverse_kl", "js"] = "forward_kl"
    """KL(checkpoint || reference), the other way round, or the symmetric Jensen-Shannon."""


def data(frames: Frames, params: ShallownessParams) -> pd.DataFrame:
    """One line an arm, summary and seed (missing: all seeds, with intervals over prompts)."""
    rows = of_checkpoint(frames, TokenKL, params.checkpoint, params.attack, params.step)
    rows = rows[(rows["group"] == params.group) & (rows["measure"] == params.measure)]
    arms = {str(arm): part for arm, part in rows.groupby("arm")}
    budgets = {arm: _by_prompt(part) for arm, part in arms.items()}
    first = min(arms, key=arm_order, default="")
    found = [
        {"arm": arm, "group": params.group, "step": int(part["step"].max()), **line}
        for arm, part in arms.items()
        for line in _lines(part, budgets[arm], budgets[first], first if arm != first else "")
    ]
    table = pd.DataFrame(found, columns=COLUMNS).astype({"seed": "Int64"})
    return in_order(table.dropna(subset="value"), "summary", "seed")


def _lines(
    part: pd.DataFrame,
    budget: dict[str, np.ndarray],
    baseline: dict[str, np.ndarray],
    name: str,
) -> Iterator[dict[str, Any]]:
    """What one arm has: all seeds together with intervals, then each seed."""
    against = differences(budget, baseline) if name else {}
    for summary, found in intervals(budget).items():
        line = {"summary": summary, "seed": pd.NA, "prompts": len(budget), "value": found.value,
                "low": found.low, "high": found.high, "baseline": name}  # fmt: skip
        if summary in against:
            gap = against[summary]
            line |= {"difference": gap.value, "difference_low": gap.low,
                     "difference_high": gap.high}  # fmt: skip
        yield line
    for seed, of_seed in part.groupby("seed"):
        for summary, found in intervals(_by_prompt(of_seed)).items():
            yield {"summary": summary, "seed": seed, "prompts": len(of_seed),
                   "value": found.value, "baseline": name}  # fmt: skip


def _by_prompt(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """KL by response position of each prompt, summed over seeds."""
    return {
        str(example): padded(part["values"].tolist()).sum(0)
        for example, part in rows.groupby("example", sort=True)
    }


def plot(table: pd.DataFrame, params: ShallownessParams, theme: Theme) -> go.Figure:
    """One panel a summary, one line an arm: all prompts with interval, seeds as small marks."""
    arms = list(dict.fromkeys(table["arm"]))
    figure = make_subplots(rows=1, cols=len(HEADS), shared_yaxes=True, horizontal_spacing=0.05)
    for column, (summary, head) in enumerate(HEADS.items(), 1):
        part = table[table["summary"] == summary]
        for place, arm in enumerate(arms):
            of_arm = part[part["arm"] == arm]
            figure.add_traces(_marks(of_arm, arm, place, theme), rows=1, cols=column)
        ends = [*part["value"].astype(float), *part["high"].dropna().astype(float)]
        most = 1.0 if summary == "share_5" else max([1.0, *ends])
        step = 0.5 if summary == "share_5" else max(1, round(most / 4))
        figure.update_xaxes(title=head, range=[0, 1.1 * most], dtick=step, col=column)
    places = list(range(len(arms)))
    figure.update_yaxes(
        tickvals=places, ticktext=[escape(arm) for arm in arms], showgrid=False,
        range=[len(arms) - 0.5, -0.5],
    )  # fmt: skip
    figure.update_xaxes(title_font_size=theme.small)
    return framed(figure, theme, panels=max(5, 2.2 * len(arms)) * theme.label)


def _marks(part: pd.DataFrame, arm: str, place: int, theme: Theme) -> list[go.Scatter]:
    look = theme.series(arm)
    seeds, pooled = part[part["seed"].notna()], part[part["seed"].isna()]
    traces = []
    if len(seeds) > 1:
        traces.append(
            go.Scatter(
                x=seeds["value"].tolist(), y=[place + 0.36] * len(seeds), mode="markers",
                showlegend=False, hoverinfo="skip",
                marker={"symbol": "line-ns-open", "size": 0.7 * theme.marker,
                        "color": look.faded(0.8)},
            )
        )  # fmt: skip
    up, down = (pooled["high"] - pooled["value"]), (pooled["value"] - pooled["low"])
    traces.append(
        go.Scatter(
            x=pooled["value"].tolist(), y=[place] * len(pooled), mode="markers",
            name=escape(arm), showlegend=False, text=[_said(line) for _, line in pooled.iterrows()],
            error_x={"array": up.fillna(0).tolist(), "arrayminus": down.fillna(0).tolist(),
                     "color": look.ink, "thickness": 1.2, "width": theme.marker / 2},
            marker={"symbol": look.symbol, "size": 1.3 * theme.marker, "color": look.ink,
                    "line": {"color": look.edge, "width": 1}},
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    return traces


def _said(line: pd.Series) -> str:
    said = f"{line['value']:.3g}"
    if pd.notna(line["low"]):
        said += f" ({line['low']:.3g} to {line['high']:.3g})"
    if pd.notna(line["difference_low"]):
        said += (
            f"<br>{line['difference']:+.3g} ({line['difference_low']:+.3g} to "
            f"{line['difference_high']:+.3g}) beside {escape(line['baseline'])}"
        )
    return said


def caption(table: pd.DataFrame, params: ShallownessParams) -> str:
    """Prompts, seeds, step, and what the intervals are."""
    prompts = int(table.loc[table["seed"].isna(), "prompts"].max())
    name = {"forward_kl": "KL", "reverse_kl": "reverse KL", "js": "Jensen-Shannon"}[params.measure]
    return seeds_and(
        table, f"n={prompts} {'hazardous' if params.group == 'hazard' else 'benign'} prompts",
        where(table, params.checkpoint), f"{name}; 95 % bootstrap over prompts",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps and measures that these runs have."""
    found = frames.found(TokenKL, "attack", "step")
    return found | frames.found(TokenKL, "measure", stage=None)


HELP = """
KL between a checkpoint and its reference at response position k, a mean over the prompts whose
answer gets there (positions that fewer than half reach are left out), is a budget over k; its depth
at q is the least number of tokens from the first that hold the share q of it. A shallow alignment
spends its budget early: small depths, a large share of the first five tokens. Mark: all seeds
together (KL summed over seeds); bars: 95 % percentile bootstrap over prompts, 1000 resamples; ticks
below: single seeds. The table and the tooltip hold the difference from the first arm, paired over
the prompts that both answered.

Source: Qi et al., ICLR 2025, arXiv:2406.05946, who look at KL by position; the summaries are ours.

What it does not show: how large the KL is (a budget of 0.01 nats has a depth, too: see KL by
position), or whether it matters for behaviour. Intervals are over prompts, not over seeds or
trainings.
""".strip()

FIGURE = Figure(
    name="shallowness",
    title="How few tokens hold the difference?",
    page="tokens",
    needs=(TokenKL,),
    params=ShallownessParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
