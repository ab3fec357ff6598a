"""Latent perturbation by layer: where a push of the states talks a model out of its refusal.

Gu, Huang, Wang, Wang, Li, Yao, Yao, Yang, Teng & Wang, "Probing the robustness of large language
models safety to latent perturbations", preprint 2025, arXiv:2506.16078.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import band, line, thin
from workbench.figures._panels import FEW, beside
from workbench.figures._params import Params
from workbench.figures._style import Series, Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import PerturbedNLL

HEADS = {"released": "released models", "attacked": "attacked models"}
NULL = (0.05, 0.95)
"""Quantiles of the random pushes that the band shows."""
KEYS = ["arm", "checkpoint", "step", "epsilon"]
COLUMNS = [*KEYS, "seed", "layer", "gradient", "random", "low", "high", "above", "clean",
           "prompts", "draws"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LatentNLLParams(Params):
    """What is shown of pushes by layer."""

    checkpoint: Literal["both", "released", "attacked"] = "both"
    """Released models, attacked ones, or both beside one another."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    epsilon: float | None = None
    """Length of the push over the length of the state; none for the longest measured."""
    positions: Literal["last_prompt", "scored"] = "last_prompt"
    """Which tokens were pushed."""


def data(frames: Frames, params: LatentNLLParams) -> pd.DataFrame:
    """One line an arm, checkpoint, seed (missing: all seeds pooled) and layer.

    `gradient` and `random` are means, `low` and `high` quantiles of the random pushes, `above` the
    share of prompts whose gradient push does more than all of their random ones.
    """
    parts = []
    both: tuple[Checkpoint, ...] = ("released", "attacked")
    for checkpoint in both if params.checkpoint == "both" else (params.checkpoint,):
        rows = of_checkpoint(frames, PerturbedNLL, checkpoint, params.attack, params.step)
        rows = rows[rows["positions"] == params.positions]
        size = rows["epsilon"].max() if params.epsilon is None else params.epsilon
        rows = rows[np.isclose(rows["epsilon"], size)].assign(checkpoint=checkpoint)
        for names, part in rows.groupby(KEYS):
            for seed, of_seed in [*part.groupby("seed"), (pd.NA, part)]:
                profile = _profile(of_seed)
                profile[[*KEYS, "seed"]] = [*names, seed]
                parts.append(profile)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return in_order(table[COLUMNS].astype({"seed": "Int64"}), "checkpoint", "seed", "layer")


def _profile(rows: pd.DataFrame) -> pd.DataFrame:
    gradient = rows[rows["family"] == "gradient"]
    random = rows[rows["family"] == "random"]
    pushed, null = (np.stack(part["values"].to_list()) for part in (gradient, random))
    most = random.assign(values=list(null)).groupby(["run", "example"])["values"].agg(
        lambda draws: np.max(np.stack(draws.to_list()), axis=0)
    )  # fmt: skip
    own = np.stack([most[key] for key in zip(gradient["run"], gradient["example"], strict=True)])
    low, high = np.quantile(null, NULL, axis=0)
    return pd.DataFrame(
        {
            "layer": range(pushed.shape[1]),
            "gradient": pushed.mean(0),
            "random": null.mean(0),
            "low": low,
            "high": high,
            "above": (pushed > own).mean(0),
            "clean": gradient["clean"].mean(),
            "prompts": len(gradient),
            "draws": random["draw"].nunique(),
        }
    )


def plot(table: pd.DataFrame, params: LatentNLLParams, theme: Theme) -> go.Figure:
    """One panel a checkpoint, on shared axes."""
    figure, shown = beside(table, theme, HEADS, column="checkpoint")
    seen: set[str] = set()
    for column, checkpoint in enumerate(shown, 1):
        for name, part in table[table["checkpoint"] == checkpoint].groupby("arm", sort=False):
            arm = str(name)
            traces = _traces(part, escape(arm), theme.series(arm), theme, legend=arm not in seen)
            figure.add_traces(traces, rows=1, cols=column)
            seen.add(arm)
    layers = table["layer"].nunique()
    figure.update_xaxes(title="pushed layer (0: embeddings)", dtick=1 if layers <= FEW else None)
    figure.update_yaxes(title="Δ NLL of the refusal, nats a token", col=1)
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=17 * theme.label, legend=arms, heads=True)


def _traces(
    part: pd.DataFrame, arm: str, look: Series, theme: Theme, *, legend: bool
) -> list[go.Scatter]:
    pooled = part[part["seed"].isna()].set_index("layer")
    traces = band(pooled["low"], pooled["high"], look, arm)
    seeds = part[part["seed"].notna()]
    if seeds["seed"].nunique() > 1:
        by_seed = seeds.groupby("seed")
        traces += [thin(one.set_index("layer")["gradient"], look, arm) for _, one in by_seed]
    return [*traces, line(pooled["gradient"], look, theme, name=arm, legend=legend)]


def caption(table: pd.DataFrame, params: LatentNLLParams) -> str:
    """Prompts, seeds, size of the push and step."""
    prompts = int(table.loc[table["seed"].notna(), "prompts"].max())
    attacked = table[table["checkpoint"] == "attacked"]
    steps = ", ".join(str(step) for step in sorted(attacked["step"].unique()))
    where = [f"attacked: step {steps}"] if steps else []
    return seeds_and(
        table, f"{prompts} refused prompts a seed", f"ε = {table['epsilon'].iloc[0]:g}", *where,
        f"line: gradient; band: 5–95 % of {int(table['draws'].max())} random pushes a prompt",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps, sizes and positions that these runs have."""
    found = frames.found(PerturbedNLL, "attack", "step")
    return found | frames.found(PerturbedNLL, "epsilon", "positions", stage=None)


HELP = """
Δ NLL_l(δ) = NLL(refusal | h_l + δ) − NLL(refusal | h_l): by how much the same refusal becomes less
likely, in nats a token of the response, when the residual stream h_l after block l is pushed at
the last prompt token (or, with positions `scored`, at every token that predicts one of the
response). Every push is ε‖h_l‖ long. Line: a step up the gradient of that NLL (mean over the
prompts of all seeds; thin: each seed). Band: the middle 90 % of random pushes of the same length,
all prompts and draws together: what any push of this size does. The table says for which share of
the prompts the gradient does more than all of their random pushes (`above`).

Source: Gu et al., preprint 2025, arXiv:2506.16078; the response alone is scored here, the released
code counts the prompt's tokens, too.

What it does not show: whether the model then complies. A refusal can become unlikely in favour of
another refusal, or of nonsense. Where the refusal is unlikely to begin with, as in a model that
complies, Δ NLL says little: `clean` in the table is the NLL without a push. A gradient is the
steepest way for small pushes only, so a small Δ NLL at large ε proves no robustness.
""".strip()

FIGURE = Figure(
    name="latent_nll",
    title="At which layer does a small push talk the model out of its refusal?",
    page="layers",
    needs=(PerturbedNLL,),
    params=LatentNLLParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
