"""The tokens whose probability moved most between a checkpoint and its reference.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946: refusals begin with few and fixed tokens.
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
from workbench.figures._reached import require_positive
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import TokenMover

KEYS = ["arm", "step", "reference", "seed", "piece"]
COLUMNS = ["arm", "group", "step", "reference", "seed", "piece", "moved", "kl", "prompts"]


@dataclass(frozen=True, kw_only=True)
class TokenMoversParams(Params):
    """Which tokens moved."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    group: Literal["hazard", "benign"] = "hazard"
    """Which prompts."""
    position: int | None = 0
    """Response position, 0 for the first; none for all stored ones together."""
    tokens: int | None = 12
    """Show so many tokens; none for all stored ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("tokens", self.tokens)


def data(frames: Frames, params: TokenMoversParams) -> pd.DataFrame:
    """One line an arm, token and seed: change of probability and its term of KL, a prompt."""
    rows = of_checkpoint(frames, TokenMover, params.checkpoint, params.attack, params.step)
    rows = rows[rows["group"] == params.group]
    prompts = rows.groupby(["arm", "seed"])["example"].nunique().rename("prompts")
    if params.position is not None:
        rows = rows[rows["position"] == params.position]
    rows = rows.assign(moved=rows["p"] - rows["q"])
    sums = rows.groupby(KEYS, as_index=False)[["moved", "contribution"]].sum()
    sums = sums.merge(prompts.reset_index(), on=["arm", "seed"])
    sums["moved"] /= sums["prompts"]
    sums["kl"] = sums["contribution"] / sums["prompts"]
    sums["group"] = params.group
    most = sums.groupby(["arm", "piece"])["moved"].mean().abs().groupby("piece").max()
    shown = most.sort_values(ascending=False, kind="stable").index[: params.tokens]
    table = sums.loc[sums["piece"].isin(shown), COLUMNS].astype({"seed": "Int64"})
    return in_order(table, "piece", "seed")


def plot(table: pd.DataFrame, params: TokenMoversParams, theme: Theme) -> go.Figure:
    """One line a token, a mark an arm: right of 0 what the checkpoint says more often."""
    figure = go.Figure()
    means = table.groupby(["arm", "piece"], sort=False, as_index=False)["moved"].mean()
    order = means.groupby("piece")["moved"].mean().sort_values(kind="stable").index.tolist()
    for arm, part in means.groupby("arm", sort=False):
        look = theme.series(str(arm))
        figure.add_trace(
            go.Scatter(
                x=part["moved"].tolist(), y=[order.index(piece) for piece in part["piece"]],
                mode="markers", name=escape(str(arm)), showlegend=True,
                marker={"symbol": look.symbol, "size": 1.3 * theme.marker, "color": look.ink,
                        "line": {"color": look.edge, "width": 1}},
                hovertemplate="%{x:+.3g}",
            )
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": theme.muted, "width": 1})
    figure.update_xaxes(title="change of probability, p − q, a prompt")
    figure.update_yaxes(
        tickvals=list(range(len(order))), ticktext=[_shown(piece) for piece in order],
        range=[-0.6, len(order) - 0.4],
    )  # fmt: skip
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=max(6, 1.7 * len(order)) * theme.label, legend=arms)


def _shown(piece: str) -> str:
    """A piece as it is stored, with marks for what cannot be seen."""
    return escape(piece.replace("\n", "⏎").replace(" ", "·")) or "∅"


def caption(table: pd.DataFrame, params: TokenMoversParams) -> str:
    """Prompts, seeds, step and positions."""
    at = "all stored positions" if params.position is None else f"response token {params.position}"
    kind = "hazardous" if params.group == "hazard" else "benign"
    return seeds_and(
        table, f"n={int(table['prompts'].max())} {kind} prompts a seed",
        where(table, params.checkpoint), f"{at}; mean over prompts and seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks and steps that these runs have, positions that each kind of prompt has, and all."""
    rows = frames[TokenMover]
    held = [set(part["position"].tolist()) for _, part in rows.groupby(["stage", "group"])]
    positions = sorted(set.intersection(*held)) if held else []
    return frames.found(TokenMover, "attack", "step") | {"position": [None, *positions]}


HELP = """
At each response position of a few prompts the tokens with the largest |p − q| are kept, p the
checkpoint's probability and q the reference's. Shown is p − q by token, summed over the chosen
positions, a mean over prompts, then over seeds: right, what the checkpoint says more often; left,
what it says less often. The table has each token's term p log(p/q) of KL as well (nats).

Source: the positions are those of Qi et al., ICLR 2025, arXiv:2406.05946.

What it does not show: all prompts (a handful is stored), and tokens that moved less than the few
kept at a position, so the shown changes need not add up to 0. Pieces are the tokenizer's own.
""".strip()

FIGURE = Figure(
    name="token_movers",
    title="Which tokens became likelier, which less likely?",
    page="tokens",
    needs=(TokenMover,),
    params=TokenMoversParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
