"""Drift by layer: where in the model training moves what it reads, and under attack, when.

Harmful embedding drift: Huang, Hu & Liu, "Vaccine: perturbation-aware alignment", NeurIPS 2024,
arXiv:2402.01109, section 3.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _by_layer
from workbench.figures._base import Figure
from workbench.figures._checkpoints import of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._panels import FEW, colour_bar, heatmaps, height
from workbench.figures._params import Params
from workbench.figures._style import SEQUENTIAL, Theme
from workbench.figures._text import seeds_and
from workbench.rows import EmbeddingDrift

MEASURES = {
    "relative_l2": "drift |h − h<sub>0</sub>| / |h<sub>0</sub>|",
    "l2": "drift |h − h<sub>0</sub>|",
    "cosine_distance": "drift 1 − cos(h, h<sub>0</sub>)",
    "sum_sq": "drift Σ |h − h<sub>0</sub>|<sup>2</sup>",
}
KEYS = ["arm", "stage", "reference", "group", "step", "seed"]
COLUMNS = [*KEYS, "layer", "prompts", "drift"]


@dataclass(frozen=True, kw_only=True)
class DriftByLayerParams(Params):
    """What drift by layer shows."""

    checkpoint: Literal["any", "attacked", "released"] = "any"
    """Attacked models against the released, at every step; or released models against whatever they
    were compared with; any for attacked ones where there are any."""
    attack: str | None = None
    """Which attack; none for the first by name."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""
    measure: Literal["relative_l2", "l2", "cosine_distance", "sum_sq"] = "relative_l2"
    """How the distance from the reference is measured."""
    positions: str = "last_prompt"
    """Which tokens were averaged."""


def data(frames: Frames, params: DriftByLayerParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, step, seed and layer: mean over prompts."""
    rows = _rows(frames, params)
    for name in ("site", "measure", "positions"):
        rows = rows[rows[name] == getattr(params, name)]
    found = [
        [*keys, layer, part["example"].nunique(), float(mean)]
        for keys, part in rows.groupby(KEYS)
        for layer, mean in enumerate(np.stack(part["values"].to_list()).mean(axis=0))
    ]
    return in_order(pd.DataFrame(found, columns=COLUMNS), "group", "seed", "step", "layer")


def _rows(frames: Frames, params: DriftByLayerParams) -> pd.DataFrame:
    stages = set(frames[EmbeddingDrift]["stage"])
    if params.checkpoint == "attacked" or (params.checkpoint == "any" and "attack" in stages):
        return frames.attacked(EmbeddingDrift, params.attack)
    return of_checkpoint(frames, EmbeddingDrift, "released", None, None)


def _over_steps(table: pd.DataFrame) -> bool:
    return bool((table["stage"] == "attack").any())


def plot(table: pd.DataFrame, params: DriftByLayerParams, theme: Theme) -> go.Figure:
    """Of attacked models a map over steps an arm, on one colour scale; of released ones curves."""
    if not _over_steps(table):
        curves = table.rename(columns={"drift": "value"}).assign(measure=params.measure)
        return _by_layer.panels(curves, MEASURES, "layer", theme)
    means = table.groupby(["arm", "group", "layer", "step"], sort=False)["drift"].mean()
    figure, arms = heatmaps(means.reset_index(), theme, _heatmap), table["arm"].nunique()
    few = table["layer"].nunique() <= FEW
    figure.update_yaxes(title="layer", dtick=1 if few else None, col=1)
    figure.update_xaxes(type="category").update_xaxes(title="attack step", row=arms)
    figure.update_layout(
        coloraxis={
            "colorscale": SEQUENTIAL, "cmin": 0, "cmax": float(means.max()) or 1.0,
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
    """Prompts, seeds, where the states were read, of what and against what."""
    beside = ", ".join(sorted(set(table["reference"]) - {""}))
    models = "attacked models" if _over_steps(table) else "released models"
    return seeds_and(
        table, f"{int(table['prompts'].max())} prompts of each kind and seed",
        f"{params.site}, {params.positions}", f"{models} against {beside or 'their reference'}",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    attacks = frames.found(EmbeddingDrift, "attack")
    return attacks | frames.found(EmbeddingDrift, "site", "measure", "positions", stage=None)


HELP = """
How far the hidden state h of each layer lies from the reference's on the same held-out prompts:
relative_l2 is ‖h − h_0‖ / ‖h_0‖, averaged over prompts. Attacked models: against the released model
(step 0), mean over seeds; rows are arms, one colour scale for all cells, attack steps evenly spaced
columns though the steps themselves are not. Released models, or any two checkpoints that
`workbench probe drift` compared: by layer against the reference that the caption names; thick lines
are medians over seeds, thin ones single seeds. Left hazardous, right benign prompts.

Source: harmful embedding drift, Huang, Hu & Liu, NeurIPS 2024, arXiv:2402.01109.

What it does not show: direction. Two attacks with the same drift may have moved the states
differently, and a large drift need not change behaviour. Norms grow with depth, so `l2` is not
comparable between layers; `relative_l2` is.
""".strip()

FIGURE = Figure(
    name="drift_by_layer",
    title="How far does training move each layer?",
    page="drift",
    needs=(EmbeddingDrift,),
    params=DriftByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
