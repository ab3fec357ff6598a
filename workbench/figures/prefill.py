"""Harmfulness by prefilled tokens: how deep a refusal goes.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946, section 3: attacks that begin the answer.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._panels import FEW
from workbench.figures._params import Params
from workbench.figures._reached import along, require_positive
from workbench.figures._seeds import seed_lines, with_means
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.report import DEFENDED
from workbench.rows import Prefill

COLUMNS = ["arm", "seed", "split", "prefilled", "prompts", "harmfulness"]


@dataclass(frozen=True, kw_only=True)
class PrefillParams(Params):
    """What harmfulness by prefilled tokens shows."""

    domain: str = DEFENDED
    """Part of the world whose hazards count."""
    tokens: int | None = None
    """Show so many prefilled tokens at most; none for all that half of the answers reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("tokens", self.tokens)


def data(frames: Frames, params: PrefillParams) -> pd.DataFrame:
    """One line an arm, seed (missing: mean over seeds) and number of prefilled tokens."""
    rows = frames[Prefill]
    rows = rows[(rows["stage"] == "defence") & (rows["group"] == "hazard")]
    rows = rows[rows["domain"] == params.domain].sort_values("split", kind="stable")
    of_run = rows.groupby("run")
    rows = rows[(rows["split"] == of_run["split"].transform("first"))
                & (rows["step"] == of_run["step"].transform("max"))]  # fmt: skip
    most = None if params.tokens is None else params.tokens + 1  # none prefilled is a place too
    found = [
        {"arm": arm, "seed": seed, "split": split, "prefilled": k, "prompts": n,
         "harmfulness": share}
        for (arm, seed, split), part in rows.groupby(["arm", "seed", "split"])
        for k, n, share in along(part["values"].tolist(), most)
    ]  # fmt: skip
    table = with_means(
        pd.DataFrame(found, columns=COLUMNS), ["arm", "split", "prefilled"], "harmfulness"
    )
    return in_order(table, "seed", "prefilled")


def plot(table: pd.DataFrame, params: PrefillParams, theme: Theme) -> go.Figure:
    """One line an arm, a thin one for each of its seeds."""
    figure = seed_lines(table, "prefilled", "harmfulness", theme)
    figure.update_xaxes(
        title="tokens of a compliant answer given (0: none)",
        dtick=1 if table["prefilled"].max() <= FEW else None,
    )
    figure.update_yaxes(title="harmfulness f", range=[-0.04, 1.06])
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=24 * theme.label, legend=arms)


def caption(table: pd.DataFrame, params: PrefillParams) -> str:
    """Prompts, seeds and split."""
    n, splits = int(table["prompts"].max()), sorted(table["split"].unique())
    return seeds_and(
        table, f"n={n} hazards ({params.domain}, {', '.join(splits)})",
        "released models, greedy", "mean over prompts, then seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Parts of the world that these runs were asked about."""
    return frames.found(Prefill, "domain", stage="defence")


HELP = """
The released model, not attacked, is given a hazardous request and the first k tokens of a compliant
answer, and goes on from there. f: share of the answers that are wholly right, what was given
included. Thick line: mean over prompts, then over seeds; thin lines: single seeds. A number of
tokens that fewer than half of the answers are longer than is left out.

Source: Qi et al., ICLR 2025, arXiv:2406.05946, who call an alignment shallow if a few prefilled
tokens undo it.

What it does not show: resistance to fine-tuning. A model whose knowledge is gone stays at 0 as one
that refuses at every token does, and a shallow refusal says nothing of the model behind it. With
most of the answer given little is left to get right, so a curve that rises late shows only that.
""".strip()

FIGURE = Figure(
    name="prefill",
    title="How deep does the refusal go?",
    page="tokens",
    needs=(Prefill,),
    params=PrefillParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
