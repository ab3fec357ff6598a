"""Linear probes by layer: where hazard can be read, and whether an old probe still reads it.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017
workshop, arXiv:1610.01644.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed, width
from workbench.figures._lines import curves
from workbench.figures._panels import FEW
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.figures.colour import rgba
from workbench.rows import LinearProbes

TITLES = {"auroc": "AUROC", "accuracy": "accuracy", "ece": "calibration error"}
COLUMNS = ["arm", "panel", "seed", "step", "reference", "layer", "value", "low", "high", "n"]


@dataclass(frozen=True, kw_only=True)
class ProbeByLayerParams(Params):
    """What linear probes by layer show."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    measure: Literal["auroc", "accuracy", "ece"] = "auroc"
    """How well it tells hazardous from benign; or how wrong its probabilities are."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""
    positions: str = "last_prompt"
    """Which state of an example was read."""
    estimator: str = "ridge"
    """Which classifier."""


def data(frames: Frames, params: ProbeByLayerParams) -> pd.DataFrame:
    """One line an arm, what was learnt and judged, seed and layer, with its shuffled band."""
    rows = of_checkpoint(frames, LinearProbes, params.checkpoint, params.attack, params.step)
    for name in ("site", "positions", "estimator"):
        rows = rows[rows[name] == getattr(params, name)]
    panels = [_panel(*of) for of in rows[["fitted", "trained_on", "tested_on"]].to_numpy()]
    long = rows.assign(panel=panels, layer=rows["values"].map(lambda v: range(len(v))))
    long = long.explode(["values", "layer"]).astype({"values": float, "layer": int})
    keys = ["arm", "panel", "seed", "step", "layer"]
    table = long[long["measure"] == params.measure].rename(columns={"values": "value"})
    for name in ("low", "high"):
        chance = long[long["measure"] == f"shuffled_{name}"].set_index(keys)["values"]
        chance = chance[~chance.index.duplicated()]
        at = pd.MultiIndex.from_frame(table[keys])
        shown = chance.reindex(at).to_numpy() if params.measure == "auroc" else float("nan")
        table = table.assign(**{name: shown})
    order = {panel: i for i, panel in enumerate(sorted(set(panels), key=_place))}
    table = table[COLUMNS].sort_values("panel", key=lambda c: c.map(order), kind="stable")
    return in_order(table)


def _panel(fitted: str, trained: str, tested: str) -> str:
    """What was learnt from and judged, in words."""
    if tested == "framed":
        return "framed hazards" + (", frozen probe" if fitted == "reference" else "")
    if fitted == "reference":
        return "frozen probe of the reference"
    return "own states" if trained == tested else f"{trained} → {tested}"


def _place(panel: str) -> tuple[int, str]:
    known = ["own states", "frozen probe of the reference", "framed hazards",
             "framed hazards, frozen probe"]  # fmt: skip
    return (known.index(panel) if panel in known else len(known), panel)


def plot(table: pd.DataFrame, params: ProbeByLayerParams, theme: Theme) -> go.Figure:
    """One panel for each way to learn and judge, on shared axes."""
    panels = sorted(table["panel"].unique(), key=_place)
    columns = min(len(panels), 3 if width(theme) > 45 * theme.label else 2)
    lines = -(-len(panels) // columns)
    height = 13 * theme.label
    figure = make_subplots(
        rows=lines, cols=columns, shared_xaxes="all", shared_yaxes="all", horizontal_spacing=0.04,
        vertical_spacing=min(0.3, 2.2 * theme.label / (lines * height)),
        subplot_titles=[escape(panel) for panel in panels],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    shaded, layers = False, table["layer"].nunique()
    for i, panel in enumerate(panels):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        part = table[table["panel"] == panel]
        chance = part.groupby("layer")[["low", "high"]].mean().dropna()
        if len(chance):
            figure.add_trace(_chance(chance, theme, legend=not shaded), **at)
            shaded = True
        for arm, of in part.assign(step=part["layer"]).groupby("arm", sort=False):
            name = escape(str(arm))
            look = theme.series(str(arm))
            for trace in curves(of, "layer", "value", look, theme, name=name, legend=not i):
                figure.add_trace(trace, **at)
        if i + columns >= len(panels):
            figure.update_xaxes(title="layer", showticklabels=True, **at)
    figure.update_xaxes(dtick=1 if layers <= FEW else None)
    figure.update_yaxes(title=TITLES[params.measure], col=1)
    if params.measure != "ece":
        figure.update_yaxes(range=[-0.04, 1.06])
    named = [*table["arm"].unique(), *["shuffled labels"] * shaded]
    return framed(figure, theme, panels=lines * height, legend=named, heads=True)


def _chance(chance: pd.DataFrame, theme: Theme, *, legend: bool) -> go.Scatter:
    """Where AUROC lies when the labels were shuffled before learning in this panel's way."""
    layers = chance.index.tolist()
    low, high = chance["low"].tolist(), chance["high"].tolist()
    return go.Scatter(
        x=[*layers, *layers[::-1]], y=[*low, *high[::-1]], fill="toself", mode="lines",
        line={"width": 0}, fillcolor=rgba(theme.muted, 0.25), hoverinfo="skip",
        name="shuffled labels", legendgroup="shuffled labels", showlegend=legend,
    )  # fmt: skip


def caption(table: pd.DataFrame, params: ProbeByLayerParams) -> str:
    """Prompts, seeds, step and estimator."""
    n = int(table.loc[table["panel"] == "own states", "n"].max())
    beside = ", ".join(sorted(set(table["reference"])))
    return seeds_and(
        table, f"{n} prompts, half of them hazardous" if n else "prompts of two parts",
        f"{where(table, params.checkpoint)}; reference: {beside}",
        f"{params.estimator}, {params.site}, {params.positions}, held-out prompts",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """What these runs have measured."""
    found = frames.found(LinearProbes, "attack", "step")
    return found | frames.found(LinearProbes, "site", "positions", "estimator", stage=None)


HELP = """
A linear classifier is learnt at every layer to tell hazardous from benign prompts, and judged on
prompts that it did not learn from (folds). AUROC: the share of (hazardous, benign) pairs of a fold
that it puts in the right order; accuracy: at its own threshold. Panels: learnt from the
checkpoint's own states; learnt from the reference's, frozen, and put on the checkpoint (its order
can survive when its threshold does not); learnt from one part of the domain, judged on another;
judged on hazards in a frame that hides them. Grey: 5 to 95 % of the AUROC after learning shuffled
labels in the panel's own way, which is what chance gives with so many prompts; where a panel has no
grey there is no such control, and another panel's does not stand for it. Calibration error:
probabilities by Platt's sigmoid, fitted on other folds, ten bins. Thick line: median over seeds;
thin: single seeds.

Source: Alain & Bengio, ICLR 2017, arXiv:1610.01644; shuffled labels after Hewitt & Liang, EMNLP
2019, arXiv:1909.03368.

What it does not show: that the model uses what can be read. Hazard stays readable in models that
comply, because complying needs it too; AUROC 1 everywhere is common and says little by itself. A
frozen probe that fails has lost its direction, not the model its knowledge.
""".strip()

FIGURE = Figure(
    name="probe_by_layer",
    title="At which layers can hazard be read, and does an old probe still read it?",
    page="layers",
    needs=(LinearProbes,),
    params=ProbeByLayerParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
