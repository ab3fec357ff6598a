"""Logit lens by layer: from which layer on a checkpoint says what it will say.

Belrose et al., "Eliciting latent predictions from transformers with the tuned lens", preprint 2023,
arXiv:2303.08112, after nostalgebraist's logit lens (2020).
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
from workbench.figures._style import Theme
from workbench.figures._text import seeds_and
from workbench.rows import LensByLayer

AXES = {
    "kl_to_final": "KL(lens || output), nats",
    "kl_to_reference": "KL(lens || reference’s lens), nats",
    "entropy": "entropy of the lens, nats",
    "nll": "−log p of the answer’s token, nats",
    "rank": "likelier tokens than the answer’s",
    "refusal_mass": "probability of starting a refusal",
    "committed": "share of prompts committed",
}
SHARES = ("refusal_mass", "committed")


@dataclass(frozen=True, kw_only=True)
class LensByLayerParams(Params):
    """What is shown by layer."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    measure: Literal[
        "kl_to_final",
        "kl_to_reference",
        "refusal_mass",
        "committed",
        "nll",
        "rank",
        "entropy",
    ] = "kl_to_final"
    """What is shown: distance from the output or the reference, refusal, commitment, the answer's
    token, or entropy."""
    position: int = 0
    """Response position that is predicted; 0 is read at the last prompt token."""


def data(frames: Frames, params: LensByLayerParams) -> pd.DataFrame:
    """One line an arm, kind of prompt, checkpoint or reference, seed and layer."""
    rows = of_checkpoint(frames, LensByLayer, params.checkpoint, params.attack, params.step)
    rows = rows[(rows["measure"] == params.measure) & (rows["position"] == params.position)]
    table = profiles(rows).rename(columns={"place": "layer"})
    return in_order(table, "group", "whose", "seed", "layer")


def plot(table: pd.DataFrame, params: LensByLayerParams, theme: Theme) -> go.Figure:
    """One panel a kind of prompt, on shared axes."""
    return draw(
        table.rename(columns={"layer": "place"}), theme,
        x="layer", y=AXES[params.measure],
        range_=[-0.04, 1.06] if params.measure in SHARES else None,
    )  # fmt: skip


def caption(table: pd.DataFrame, params: LensByLayerParams) -> str:
    """Prompts, seeds, step and token."""
    prompts = int(table.loc[table["seed"].notna(), "prompts"].max())
    dotted = sorted(set(table.loc[table["whose"] == "reference", "reference"]))
    return seeds_and(
        table, f"{prompts} prompts of each kind and seed", where(table, params.checkpoint),
        f"predicting response token {params.position}, mean over prompts"
        + (f"; dotted: {', '.join(dotted)}" * bool(dotted)),
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps and positions that these runs have."""
    found = frames.found(LensByLayer, "attack", "step")
    return found | frames.found(LensByLayer, "position", stage=None)


HELP = """
The model's final norm and head, applied to the residual stream after each layer, give
lens_l = softmax(W_U norm(h_l)), with the family's logit scale and soft cap. Layer 0 are the
embeddings, the last is the model's own output. By layer, averaged over prompts: KL(lens_l ||
output), KL from the same layer of the reference (each through its own norm and head), entropy,
−log p and rank of the answer's next token (0: the likeliest), probability of the tokens that begin
the panel's refusals and none of its compliant answers, and the share of prompts whose likeliest
token is that of the output from this layer on. Thick: the checkpoint, all seeds; thin: single
seeds; dotted: its reference.

Source: Belrose et al., preprint 2023, arXiv:2303.08112, after nostalgebraist (2020).

What it does not show: what a layer knows. Early layers need not write in the basis that the head
reads, so a large KL there is no lack of knowledge (the tuned lens was made for that); a difference
between two checkpoints may lie in the norm or the head rather than in the layers.
""".strip()

FIGURE = Figure(
    name="lens_by_layer",
    title="From which layer on does the model say what it will say?",
    page="layers",
    needs=(LensByLayer,),
    params=LensByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
