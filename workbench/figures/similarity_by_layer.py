"""Similarity by layer: whether a layer's states are still the same set, however it was turned.

Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML
2019, arXiv:1905.00414.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _by_layer
from workbench.figures._base import Figure
from workbench.figures._by_layer import Layer, Over
from workbench.figures._frames import Frames
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.rows import StateSimilarity

TITLES = {"cka": "linear CKA", "procrustes": "Procrustes residual"}


@dataclass(frozen=True, kw_only=True)
class SimilarityByLayerParams(Params):
    """What similarity by layer shows."""

    checkpoint: Literal["attacked", "released"] = "attacked"
    """The attacked model beside the released one, or the released beside the one before it."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    measure: Literal["both", "cka", "procrustes"] = "both"
    """Linear CKA, 1 for the same, or the Procrustes residual, 0 for the same."""
    over: Over = "layer"
    """What x is; released models have one checkpoint, so theirs is the layer."""
    layer: Layer = "last"
    """Which layer, over steps; counted from 0."""
    step: int | None = None
    """Attack step, over layers; none for the last measured."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""
    positions: str = "last_prompt"
    """Which tokens are in the sets."""


def _over(params: SimilarityByLayerParams) -> Over:
    return "layer" if params.checkpoint == "released" else params.over


def data(frames: Frames, params: SimilarityByLayerParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, measure, seed, step and layer."""
    measures = tuple(TITLES) if params.measure == "both" else (params.measure,)
    return _by_layer.cut(frames, StateSimilarity, params, measures, _over(params))


def plot(table: pd.DataFrame, params: SimilarityByLayerParams, theme: Theme) -> go.Figure:
    """One row a measure."""
    return _by_layer.panels(table, TITLES, _over(params), theme)


def caption(table: pd.DataFrame, params: SimilarityByLayerParams) -> str:
    """Tokens, seeds and where the states were read."""
    return seeds_and(
        table, f"sets of {int(table['n'].max())} states",
        _by_layer.where(table, _over(params), params.checkpoint),
        f"{params.site}, {params.positions}",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    return _by_layer.found(frames, StateSimilarity)


HELP = """
Two sets X and Y of hidden states of the same tokens, centred: the checkpoint's and those of the
model it started from. Linear CKA is ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), 1 where one set is the other
turned and scaled. The Procrustes residual is the share of the spread that the best turn and scale
leave unexplained, 1 − ‖XᵀY‖²_* / (‖X‖²_F ‖Y‖²_F), 0 where none is left. Left hazardous, right
benign prompts. Thick line: median over seeds; thin: each seed; band: 95 % interval over seeds.

Source: Kornblith, Norouzi, Lee & Hinton, ICML 2019, arXiv:1905.00414.

What it does not show: shifts and turns of the whole set, which both leave out on purpose and which
later layers, unchanged, would notice; drift counts them. CKA follows the few directions with most
spread and can stay near 1 while small ones that matter are gone. With fewer states than dimensions
it is well above 0 for unrelated sets, so compare it between arms, not with 0.
""".strip()

FIGURE = Figure(
    name="similarity_by_layer",
    title="Which layers still hold the same states, but for a turn?",
    page="drift",
    needs=(StateSimilarity,),
    params=SimilarityByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
