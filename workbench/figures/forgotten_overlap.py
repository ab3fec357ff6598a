"""Overlap of forgotten examples: do attacks on different arms and seeds make the same ones forget?

Chen, Han, Shen, Bai & Wong, "Vulnerability-aware alignment: mitigating uneven forgetting in harmful
fine-tuning", ICML 2025, arXiv:2506.03850: forgotten sets of different fine-tunings overlap.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import InvalidValueError
from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._histories import answers, hazards, histories
from workbench.figures._layout import framed
from workbench.figures._panels import colour_bar
from workbench.figures._params import Params
from workbench.figures._style import DIVERGING, LIGHT, Theme, arm_order
from workbench.figures._text import MISSING, escape
from workbench.forgetting import History, Overlap, compare
from workbench.rows import Generation, Prompt

MEASURES = {"jaccard": "Jaccard index", "coefficient": "overlap coefficient"}
COLUMNS = ["arm", "label", "other", "pairs", "forgotten", "at_risk", "overlap", "chance", "excess",
           "p", "seeds"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ForgottenOverlapParams(Params):
    """What the overlap of forgotten examples shows."""

    attack: str | None = None
    """Only this attack; none for all, which are compared with one another."""
    harmful: Literal["success", "complied"] = "success"
    """What counts as harmful: an answer that is wholly right, or one that complies at all."""
    measure: Literal["jaccard", "coefficient"] = "jaccard"
    """Common share of the union, or of the smaller set."""
    share: float = 0.5
    """Compare what was forgotten by the time this share of each attack's hazards at risk was."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise InvalidValueError(f"share is above 0 and at most 1, not {self.share}.")


def data(frames: Frames, params: ForgottenOverlapParams) -> pd.DataFrame:
    """One line two arms: mean overlap of pairs of their runs; of an arm with itself, of seeds."""
    rows = answers(frames, params.attack, hazards(frames))
    several = rows["attack"].nunique() > 1
    about = rows.drop_duplicates("run").set_index("run")
    by_label: dict[str, dict[str, History]] = {}
    arms: dict[str, str] = {}
    for run, history in histories(rows, params.harmful).items():
        arm, attack = str(about.at[run, "arm"]), str(about.at[run, "attack"])
        label = f"{arm}, {attack}" if several else arm
        arms[label] = arm
        by_label.setdefault(label, {})[run] = history.until_forgotten(params.share)
    found = []
    for one, other in product(by_label, repeat=2):
        pairs = [
            compare(a, b)
            for x, a in by_label[one].items()
            for y, b in by_label[other].items()
            if (x < y or one != other) and a.at_risk & b.at_risk
        ]
        runs = {*by_label[one], *by_label[other]}
        found.append([arms[one], one, other, *_means(pairs, by_label[one], params.measure),
                      about.loc[sorted(runs), "seed"].nunique()])  # fmt: skip
    table = pd.DataFrame(found, columns=COLUMNS)
    table["place"] = [arm_order(other) for other in table["other"]]
    return in_order(table, "label", "place").drop(columns="place")


def _means(pairs: list[Overlap], runs: dict[str, History], measure: str) -> list[Any]:
    """Pairs, forgotten, at risk, overlap, chance, excess, median p."""
    values = np.array([getattr(x, measure) for x in pairs], dtype=float)
    chance = np.array([getattr(x, f"expected_{measure}") for x in pairs], dtype=float)
    told = np.array([min(x.sizes) > 0 for x in pairs], dtype=bool)  # else nothing can be shared
    forgotten = float(np.mean([len(h.forgotten) for h in runs.values()]))
    at_risk = float(np.mean([len(h.at_risk) for h in runs.values()]))
    if not told.any():
        return [0, forgotten, at_risk, np.nan, np.nan, np.nan, np.nan]
    mean, level = float(values[told].mean()), float(chance[told].mean())
    p = float(np.median([x.p for x, yes in zip(pairs, told, strict=True) if yes]))
    return [int(told.sum()), forgotten, at_risk, mean, level, mean - level, p]


def plot(table: pd.DataFrame, params: ForgottenOverlapParams, theme: Theme) -> go.Figure:
    """A matrix of arms, coloured by the overlap beyond chance, both numbers in each cell."""
    labels = list(dict.fromkeys(table["label"]))
    grid = table.pivot(index="label", columns="other", values="excess").loc[labels, labels]
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(np.float32), x=list(range(len(labels))), y=list(range(len(labels))),
            zmid=0, zmin=-1, zmax=1, colorscale=[list(x) for x in DIVERGING], hoverinfo="skip",
            xgap=2, ygap=2,
            colorbar=colour_bar(theme, f"{MEASURES[params.measure]} − chance"),
        )
    )  # fmt: skip
    for line in table.to_dict("records"):
        drawn = bool(np.isfinite(line["overlap"]))
        words = f"{line['overlap']:.2f}<br>({line['chance']:.2f})" if drawn else MISSING
        figure.add_annotation(
            x=labels.index(line["other"]), y=labels.index(line["label"]), text=words,
            showarrow=False, font={"size": theme.small, "color": LIGHT.ink if drawn else theme.ink},
        )  # fmt: skip
    names = [escape(label) for label in labels]
    ticks = {"tickvals": list(range(len(labels))), "showgrid": False}
    figure.update_xaxes(**ticks, ticktext=[name.replace(" ", "<br>") for name in names])
    figure.update_yaxes(**ticks, ticktext=names, autorange="reversed")
    return framed(figure, theme, panels=max(14, 3.8 * len(labels) + 2) * theme.label)


def caption(table: pd.DataFrame, params: ForgottenOverlapParams) -> str:
    """Seeds, how many were forgotten, and what stands in a cell."""
    seeds = int(table["seeds"].max())
    forgotten, at_risk = table["forgotten"].mean(), table["at_risk"].mean()
    return " · ".join(
        [
            f"{seeds} seed{'s' if seeds != 1 else ''}",
            f"n={forgotten:.0f} of {at_risk:.0f} hazards forgotten, mean over runs",
            f"{MEASURES[params.measure]} of pairs of runs (in brackets: of random sets as large)",
            f"forgotten by the step at which {params.share:.0%} were",
        ]
    )


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks that these runs answered under."""
    return frames.found(Generation, "attack")


HELP = """
For each attack run, the set of hazards that were answered safely at the start and turned harmful by
the step at which the chosen share of them had. Two runs are compared by |A ∩ B| / |A ∪ B| (Jaccard)
or |A ∩ B| / min(|A|, |B|) (overlap coefficient), among the hazards at risk in both, and the mean is
taken over all pairs of runs of two arms; on the diagonal over pairs of seeds of one arm. In
brackets: the mean over random sets of the same sizes (hypergeometric), which for large sets is high
by itself; the colour is the difference. The table holds the median one-sided p of the pairs.

Source: Chen, Han, Shen, Bai & Wong, ICML 2025, arXiv:2506.03850, who found the same examples to be
forgotten under different fine-tunings.

What it does not show: that the examples are vulnerable by themselves; arms share their base model
and their attackers' data, which makes overlap likely. Sets that hold nearly all examples, or hardly
any, cannot differ from chance. Pairs of runs that share a run are not independent, so p is for one
pair, not for a cell.
""".strip()

FIGURE = Figure(
    name="forgotten_overlap",
    title="Do different attacks make the same answers forget?",
    page="resistance",
    needs=(Generation, Prompt),
    params=ForgottenOverlapParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
