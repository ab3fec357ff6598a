"""Drift by layer and attack step: where in the model, and when, an attack moves what it reads.

Harmful embedding drift: Huang, Hu & Liu, "Vaccine: perturbation-aware alignment", NeurIPS 2024,
arXiv:2402.01109, section 3.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._panels import FEW, colour_bar, heatmaps, height
from workbench.figures._params import Params
from workbench.figures._style import SEQUENTIAL, Theme
from workbench.rows import EmbeddingDrift

MEASURES = {
    "relative_l2": "drift |h<sub>t</sub> − h<sub>0</sub>| / |h<sub>0</sub>|",
    "l2": "drift |h<sub>t</sub> − h<sub>0</sub>|",
    "cosine_distance": "drift 1 − cos(h<sub>t</sub>, h<sub>0</sub>)",
    "sum_sq": "drift Σ |h<sub>t</sub> − h<sub>0</sub>|<sup>2</sup>",
}


@dataclass(frozen=True, kw_only=True)
class DriftByLayerParams(Params):
    """What drift by layer and attack step shows."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""
    measure: Literal["relative_l2", "l2", "cosine_distance", "sum_sq"] = "relative_l2"
    """How the distance from the released model is measured."""
    positions: str = "last_prompt"
    """Which tokens were averaged."""


def data(frames: Frames, params: DriftByLayerParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, layer and step: mean over prompts, then over seeds."""
    rows = frames.attacked(EmbeddingDrift, params.attack)
    for name in ("site", "measure", "positions"):
        rows = rows[rows[name] == getattr(params, name)]
    found = []
    for (arm, group, step, seed), part in rows.groupby(["arm", "group", "step", "seed"]):
        means = np.stack(part["values"].to_list()).mean(axis=0)
        found += [
            {"arm": arm, "group": group, "layer": layer, "step": step, "seed": seed,
             "prompts": len(part), "drift": float(mean)}
            for layer, mean in enumerate(means)
        ]  # fmt: skip
    keys = ["arm", "group", "layer", "step"]
    table = pd.DataFrame(found, columns=[*keys, "seed", "prompts", "drift"])
    table = table.groupby(keys, as_index=False).agg(
        seeds=("seed", "nunique"), prompts=("prompts", "max"), drift=("drift", "mean"),
        low=("drift", "min"), high=("drift", "max"),
    )  # fmt: skip
    return in_order(table, "group", "layer", "step")


def plot(table: pd.DataFrame, params: DriftByLayerParams, theme: Theme) -> go.Figure:
    """One row an arm, one column a kind of prompt; all cells on one colour scale."""
    figure, arms = heatmaps(table, theme, _heatmap), table["arm"].nunique()
    few = table["layer"].nunique() <= FEW
    figure.update_yaxes(title="layer", dtick=1 if few else None, col=1)
    figure.update_xaxes(type="category").update_xaxes(title="attack step", row=arms)
    figure.update_layout(
        coloraxis={
            "colorscale": SEQUENTIAL, "cmin": 0, "cmax": float(table["drift"].max()) or 1.0,
            "colorbar": colour_bar(theme, MEASURES[params.measure]),
        }
    )  # fmt: skip
    return framed(figure, theme, panels=height(arms, 7 * theme.label), heads=True)


def _heatmap(part: pd.DataFrame) -> go.Heatmap:
    grid = part.pivot(index="layer", columns="step", values="drift")
    return go.Heatmap(
        z=grid.to_numpy(np.float32),
        x=[str(step) for step in grid.columns],
        y=grid.index.tolist(),
        coloraxis="coloraxis",
        hovertemplate="layer %{y}, step %{x}: %{z:.3g}<extra></extra>",
    )


def caption(table: pd.DataFrame, params: DriftByLayerParams) -> str:
    """Prompts, seeds and where the states were read."""
    seeds, prompts = int(table["seeds"].max()), int(table["prompts"].max())
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''} · {prompts} prompts of each kind and seed · "
        f"{params.site}, {params.positions} · against the released model"
    )


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    return frames.found(EmbeddingDrift, "attack", "site", "measure", "positions")


HELP = """
How far the hidden state h of each layer moved from the released model (step 0) while the attack
trained, on the same held-out prompts: relative_l2 is ‖h_t − h_0‖ / ‖h_0‖, averaged over prompts,
then over seeds (the table holds the least and the largest seed). Rows: arms; left hazardous, right
benign prompts; one colour scale for all cells. Attack steps are evenly spaced columns, though the
steps themselves are not.

Source: harmful embedding drift, Huang, Hu & Liu, NeurIPS 2024, arXiv:2402.01109.

What it does not show: direction. Two attacks with the same drift may have moved the states
differently, and a large drift need not change behaviour. Norms grow with depth, so `l2` is not
comparable between layers; `relative_l2` is.
""".strip()

FIGURE = Figure(
    name="drift_by_layer",
    title="How far does the attack move each layer?",
    page="drift",
    needs=(EmbeddingDrift,),
    params=DriftByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
