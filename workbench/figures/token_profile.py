"""Entropy, likelihood, Gini impurity and refusal mass of a checkpoint, by response position.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946: per-token view of fixed harmful answers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._params import Params
from workbench.figures._profiles import draw, profiles
from workbench.figures._reached import REACHED, require_positive
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.rows import TokenStatistics

AXES = {
    "entropy": "entropy, nats",
    "nll": "−log p of the answer’s token, nats",
    "gini": "1 − Σp²",
    "refusal_mass": "probability of starting a refusal",
}


@dataclass(frozen=True, kw_only=True)
class TokenProfileParams(Params):
    """What is shown by response position."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    group: Literal["both", "hazard", "benign"] = "both"
    """Which prompts."""
    measure: Literal["nll", "entropy", "gini", "refusal_mass"] = "nll"
    """What is shown: −log p of the given answer's token, entropy, 1 − Σp², or refusal mass."""
    positions: int | None = None
    """Show so many response positions at most; none for all that half of the prompts reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("positions", self.positions)


def data(frames: Frames, params: TokenProfileParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, checkpoint or reference, seed and position."""
    rows = of_checkpoint(frames, TokenStatistics, params.checkpoint, params.attack, params.step)
    rows = rows[rows["measure"] == params.measure]
    if params.group != "both":
        rows = rows[rows["group"] == params.group]
    table = profiles(rows)
    if len(table):
        most = table.groupby(["arm", "group", "whose", "seed"], dropna=False)["prompts"]
        table = table[table["prompts"] >= REACHED * most.transform("max")]
    if params.positions is not None:
        table = table[table["place"] < params.positions]
    table = table.rename(columns={"place": "position"})
    return in_order(table, "group", "whose", "seed", "position")


def plot(table: pd.DataFrame, params: TokenProfileParams, theme: Theme) -> go.Figure:
    """One panel a kind of prompt, on shared axes."""
    table = table.rename(columns={"position": "place"})
    return draw(
        table, theme, x="response token (0 is the first)", y=AXES[params.measure],
        range_=[-0.04, 1.06] if params.measure in ("gini", "refusal_mass") else None,
    )  # fmt: skip


def caption(table: pd.DataFrame, params: TokenProfileParams) -> str:
    """Prompts, seeds and step."""
    prompts = int(table.loc[table["seed"].notna(), "prompts"].max())
    references = ", ".join(sorted(set(table["reference"])))
    return seeds_and(
        table, f"{prompts} prompts of each kind and seed", where(table, params.checkpoint),
        f"mean over prompts; dotted: {references}",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks and steps that these runs have."""
    return frames.found(TokenStatistics, "attack", "step")


HELP = """
What a model predicts at each position of a fixed compliant answer y (teacher forcing), averaged
over the prompts whose answer gets there: −log p(y_k) in nats, entropy H = −Σ p log p in nats,
1 − Σ p² (the probability that two draws differ), or refusal mass: the probability of the tokens
that begin the panel's own refusals and none of its compliant answers. Thick: the checkpoint, all
seeds; thin: single seeds; dotted: what it is compared with. Positions that fewer than half of the
prompts reach are left out.

Source: positions as in Qi et al., ICLR 2025, arXiv:2406.05946; the quantities are standard.

What it does not show: what the model would write, since y is given. A low −log p of the first
tokens is no compliance yet. Refusal mass counts one set of first tokens, derived from the panel's
refusals, also at later positions, where the same tokens may mean something else.
""".strip()

FIGURE = Figure(
    name="token_profile",
    title="How sure is the model of each response token?",
    page="tokens",
    needs=(TokenStatistics,),
    params=TokenProfileParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
