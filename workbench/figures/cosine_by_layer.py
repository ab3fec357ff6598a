"""Cosine between two checkpoints by layer: hazards, framed hazards and benign text.

Zou et al., "Improving alignment and robustness with circuit breakers", NeurIPS 2024,
arXiv:2406.04313.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._cosine_data import long
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import band, line, thin
from workbench.figures._panels import FEW, GROUPS, beside
from workbench.figures._params import Params
from workbench.figures._seeds import without_seed
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import LayerCosine

KINDS = {"hazard": GROUPS["hazard"], "framed": "framed hazards", "benign": GROUPS["benign"]}
TITLES = {"cosine": "cosine with the reference", "norm_ratio": "norm / reference’s"}
KEYS = ["arm", "group", "step", "reference"]


@dataclass(frozen=True, kw_only=True)
class CosineByLayerParams(Params):
    """What cosine by layer shows."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    measure: Literal["cosine", "norm_ratio"] = "cosine"
    """Cosine of the two states, or the checkpoint's norm over the reference's."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""


def data(frames: Frames, params: CosineByLayerParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, seed (missing: all seeds pooled) and layer."""
    rows = of_checkpoint(frames, LayerCosine, params.checkpoint, params.attack, params.step)
    rows = rows[rows["site"] == params.site]
    seeds = long(rows, [*KEYS, "seed", "example"], "layer", params.measure)
    pooled = without_seed(seeds)
    whole = pd.concat([seeds.astype({"seed": "Int64"}), pooled], ignore_index=True)
    table = whole.groupby([*KEYS, "seed", "layer"], dropna=False, as_index=False).agg(
        prompts=("value", "size"), mean=("value", "mean"), least=("value", _quantile(0.05)),
        low=("value", _quantile(0.25)), high=("value", _quantile(0.75)),
    )  # fmt: skip
    benign = table[table["group"] == "benign"].set_index(["arm", "step", "seed", "layer"])["least"]
    keys = pd.MultiIndex.from_frame(table[["arm", "step", "seed", "layer"]])
    table["benign_q05"] = benign.reindex(keys).to_numpy()
    table = table[table["group"].isin(list(KINDS))].drop(columns="least")
    places = {group: i for i, group in enumerate(KINDS)}
    table = table.sort_values("group", key=lambda c: c.map(places), kind="stable")
    return in_order(table)


def _quantile(share: float) -> Any:
    return lambda values: float(np.quantile(values, share))


def plot(table: pd.DataFrame, params: CosineByLayerParams, theme: Theme) -> go.Figure:
    """One panel a kind of prompt, on shared axes."""
    figure, groups = beside(table, theme, KINDS)
    for column, group in enumerate(groups, 1):
        for arm, part in table[table["group"] == group].groupby("arm", sort=False):
            traces = _traces(part, str(arm), theme, group, legend=column == 1)
            figure.add_traces(traces, rows=1, cols=column)
    figure.update_xaxes(title="layer", dtick=1 if table["layer"].nunique() <= FEW else None)
    figure.update_yaxes(title=TITLES[params.measure], col=1)
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=18 * theme.label, legend=arms, heads=True)


def _traces(
    part: pd.DataFrame, arm: str, theme: Theme, group: str, *, legend: bool
) -> list[go.Scatter]:
    look, name = theme.series(arm), escape(arm)
    pooled = part[part["seed"].isna()].set_index("layer")
    traces = band(pooled["low"], pooled["high"], look, name)
    floor = pooled["benign_q05"].dropna()
    if len(floor) and group != "benign":
        traces.append(
            go.Scatter(
                x=floor.index.tolist(), y=floor.tolist(), mode="lines", showlegend=False,
                legendgroup=name, line={"color": look.faded(0.9), "width": 1.2, "dash": "dot"},
                hovertemplate="5 % of benign prompts below: %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    seeds = part[part["seed"].notna()]
    if seeds["seed"].nunique() > 1:
        traces += [thin(x.set_index("layer")["mean"], look, name) for _, x in seeds.groupby("seed")]
    return [*traces, line(pooled["mean"], look, theme, name=name, legend=legend)]


def caption(table: pd.DataFrame, params: CosineByLayerParams) -> str:
    """Prompts, seeds, step and what the lines are."""
    prompts = int(table.loc[table["seed"].notna(), "prompts"].max())
    beside = ", ".join(sorted(set(table["reference"])))
    return seeds_and(
        table, f"{prompts} prompts of each kind and seed",
        f"{where(table, params.checkpoint)} against {beside}",
        "mean over response tokens, then prompts; band: middle half of the prompts; dotted: 5 % of "
        "the benign prompts lie below",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps and sites that these runs have."""
    found = frames.found(LayerCosine, "attack", "step")
    return found | frames.found(LayerCosine, "site", stage=None)


HELP = """
cos(h_ref, h) of the two models' hidden states at the same token, averaged over the response tokens
of a fixed answer, then over prompts (thick line: prompts of all seeds; thin: single seeds; band:
the middle half of the prompts, not a confidence interval). Dotted: the 5 % quantile of benign
prompts, below which a hazardous prompt is unlike 95 % of benign ones. Framed hazards ask for the
same in a frame that hides it (a story, a test): where their line stays with the benign ones, the
defence can be talked around. Or the norms' ratio ‖h‖ / ‖h_ref‖.

Source: Zou et al., NeurIPS 2024, arXiv:2406.04313.

What it does not show: at which token the models part (the map does), and whether the difference is
more than chance (the break point's p is in the map). Cosines of residual streams are dominated by a
few large dimensions, so 0.9 in one family of models is not 0.9 in another.
""".strip()

FIGURE = Figure(
    name="cosine_by_layer",
    title="Which layers turn away on hazards, and not on benign text?",
    page="layers",
    needs=(LayerCosine,),
    params=CosineByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
