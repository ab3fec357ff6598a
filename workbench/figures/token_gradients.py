"""Gradient norm by response token: which tokens an attack learns from, and until when.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946, section 4.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._panels import FEW, colour_bar, heatmaps, height
from workbench.figures._params import Params
from workbench.figures._reached import along, require_positive
from workbench.figures._style import SEQUENTIAL, Theme
from workbench.rows import TokenGradient

MEASURES = {"norm": "gradient norm", "nll": "loss, nats"}
TOTAL, ENDS = "total", {"embed": -1, "head": 10**6, "other": 10**6 + 1}
COLUMNS = ["arm", "attack", "group", "step", "part", "place", "position", "seeds", "prompts",
           "value"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenGradientsParams(Params):
    """What gradient norms by response token show."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    by: Literal["step", "part"] = "step"
    """What stands below one another: the attack's steps, or the parts of the model at one step."""
    part: str = TOTAL
    """Which part of the model, where steps stand below one another; the loss has no parts."""
    step: int | None = None
    """Which attack step, where parts stand below one another; none for the first."""
    measure: Literal["norm", "nll"] = "norm"
    """The norm of the token's gradient, or the token's loss."""
    positions: int | None = None
    """Show so many response tokens at most; none for all that half of the prompts reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("positions", self.positions)


def data(frames: Frames, params: TokenGradientsParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, step, part and token: median over prompts of all seeds."""
    rows = frames.attacked(TokenGradient, params.attack)
    if not len(rows):
        rows = frames[TokenGradient]  # released models, where none was attacked
    rows = rows[rows["measure"] == params.measure]
    if params.by == "step" or params.measure == "nll":
        rows = rows[rows["part"] == (TOTAL if params.measure == "nll" else params.part)]
    else:
        rows = rows[rows["part"] != TOTAL]
        chosen = rows["step"].min() if params.step is None else params.step
        rows = rows[rows["step"] == chosen]
    found = [
        [*names, _place(str(names[-1])), position, part["seed"].nunique(), n, value]
        for names, part in rows.groupby(["arm", "attack", "group", "step", "part"])
        for position, n, value in along(part["values"].tolist(), params.positions, np.median)
    ]
    table = pd.DataFrame(found, columns=COLUMNS)
    return in_order(table, "group", "step", "place", "position")


def _place(part: str) -> int:
    return ENDS[part] if part in ENDS else int(part.rpartition(".")[2]) if "." in part else 0


def plot(table: pd.DataFrame, params: TokenGradientsParams, theme: Theme) -> go.Figure:
    """One row an arm, one column a kind of prompt; all cells on one logarithmic colour scale."""
    below = "step" if params.by == "step" else "part"
    table = table.assign(log=np.log10(table["value"].where(table["value"] > 0)))
    figure = heatmaps(table, theme, partial(_heatmap, below=below))
    arms, lines = table["arm"].nunique(), table[below].nunique()
    figure.update_yaxes(type="category", dtick=1 if lines <= FEW else None)
    if below == "step":
        figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title="attack step" if below == "step" else "part", col=1)
    figure.update_xaxes(title="response token", row=arms)
    figure.update_layout(coloraxis=_scale(table["log"], MEASURES[params.measure], theme))
    each = max(6, min(lines, FEW) * 1.15) * theme.label
    panels = max(10 * theme.label, height(arms, each))
    return framed(figure, theme, panels=panels, heads=True)


def _heatmap(part: pd.DataFrame, below: str) -> go.Heatmap:
    order = list(dict.fromkeys(part[below]))
    grid = part.pivot(index=below, columns="position", values="log").loc[order]
    return go.Heatmap(
        z=grid.to_numpy(np.float32),
        x=grid.columns.tolist(),
        y=[str(name) for name in order],
        text=part.pivot(index=below, columns="position", values="value").loc[order].to_numpy(),
        coloraxis="coloraxis",
        hovertemplate=f"token %{{x}}, {below} %{{y}}: %{{text:.3g}}<extra></extra>",
    )


def _scale(logs: pd.Series, title: str, theme: Theme) -> dict[str, Any]:
    """Whole powers of ten around all but the smallest values, five of them named at most."""
    known = logs.dropna()
    low, high = -1.0, 1.0
    if len(known):
        low = float(np.floor(known.quantile(0.05)))
        high = float(max(np.ceil(known.max()), known.min() + 1))
    powers = list(range(int(np.ceil(low)), int(np.floor(high)) + 1))
    powers = powers[:: max(1, len(powers) // 4)]
    ticks = {"tickvals": powers, "ticktext": [_power(k) for k in powers]}
    bar = colour_bar(theme, title, **ticks)
    return {"colorscale": SEQUENTIAL, "cmin": low, "cmax": high, "colorbar": bar}


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"10<sup>{exponent}</sup>"


def caption(table: pd.DataFrame, params: TokenGradientsParams) -> str:
    """Seeds, prompts, attack, and what was measured."""
    seeds = int(table["seeds"].max())
    each = int(np.ceil(table["prompts"].max() / max(1, seeds)))
    attack = str(table["attack"].iloc[0])
    where = f"part: {params.part}" if params.by == "step" else f"step {table['step'].iloc[0]}"
    return " · ".join(
        [
            f"{seeds} seed{'s' if seeds > 1 else ''}",
            f"{each} prompts of each kind and seed",
            *([attack] if attack else ["released models"]),
            *([where] if params.measure == "norm" else []),
            "median over prompts and seeds",
        ]
    )


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps and parts that these runs have."""
    found = frames.found(TokenGradient, "attack", "step")
    return found | {"part": sorted(frames[TokenGradient]["part"].unique().tolist())}


HELP = """
‖∇_θ −log p(y_k | x, y_<k)‖₂ for each of the first tokens y_k of a fixed answer, over the parameters
of the whole model or of one part (embeddings, a block, final norm with head); of an adapted model
over the adapters. Median over the prompts of all seeds, on a logarithmic scale that leaves out the
smallest twentieth. Hazards are answered with compliance, benign requests rightly. Attack steps are
evenly spaced lines, though the steps themselves are not.

Source: Qi et al., ICLR 2025, arXiv:2406.05946, who found the gradients of an attack on aligned
models to be largest at the first tokens, and to shrink there within a few steps.

What it does not show: what a step does. Adam rescales each parameter, clipping and the mean over
tokens mix them, and gradients of different tokens may cancel. A token that is predicted with
certainty has no gradient whether it is safe or harmful; a norm depends on how a layer is scaled, so
parts compare within a model only.
""".strip()

FIGURE = Figure(
    name="token_gradients",
    title="At which response tokens does the attack pull?",
    page="training",
    needs=(TokenGradient,),
    params=TokenGradientsParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
