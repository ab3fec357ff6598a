"""The four conditions of immunisation, an arm a line: what is measured, and what is not.

Rosati, Wehner, Williams, Bartoszcze, Sajjad & Rudzicz, "Immunization against harmful fine-tuning
attacks", EMNLP Findings 2024, arXiv:2402.16382, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import attack_budget
from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed, width
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import MISSING, escape, points
from workbench.figures.colour import rgba
from workbench.pillars import Thresholds, stability
from workbench.report import ALL, CONTROL, DEFENDED
from workbench.rows import Cost, Metric

PILLARS = ("resistance", "stability", "generalisation", "trainability")
NOT_MEASURED = "not measured"
COLUMNS = ["arm", "attack", "pillar", "verdict", "detail", "seeds", "low", "high", "unit",
           "threshold"]  # fmt: skip
GAP = 1.5
"""Between columns, in letters."""
BOLD = 1.12
"""Width of bold letters over that of others."""
SHORT = {
    "held": "held",
    "broken-useless": "broken, useless",
    "broken-useful": "broken, useful",
    "unconfirmed": "unconfirmed",
    "mixed": "seeds differ",
}


@dataclass(frozen=True, kw_only=True)
class FourPillarsParams(Params):
    """What the four-pillar table judges by."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    phi: float = Thresholds.phi
    """Harmfulness above which a model counts as broken (φ)."""
    utility_floor: float = Thresholds.utility_floor
    """Capability, relative to the start, below which a broken model is of no use."""
    stability_margin: float = Thresholds.stability_margin
    """Change of capability that is of no importance (share)."""
    domain: str = DEFENDED
    """Part of the world whose hazards count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.thresholds  # says when they are out of range

    @property
    def thresholds(self) -> Thresholds:
        """As the pillars take them."""
        return Thresholds(
            phi=self.phi, utility_floor=self.utility_floor, stability_margin=self.stability_margin
        )


def data(frames: Frames, params: FourPillarsParams) -> pd.DataFrame:
    """One line an arm and pillar: verdict, bounds of the number behind it, seeds, threshold."""
    budget = attack_budget.AttackBudgetParams(
        attack=params.attack, phi=params.phi, utility_floor=params.utility_floor,
        domain=params.domain,
    )  # fmt: skip
    attacked = attack_budget.data(frames, budget)
    capability = _capability(frames)
    found: list[dict[str, Any]] = []
    for arm in dict.fromkeys([*attacked["arm"], *capability]):
        of_arm = attacked[attacked["arm"] == arm]
        found.append({"arm": arm, **_resistance(of_arm, params)})
        found.append({"arm": arm, **_stability(str(arm), capability, params)})
        found += [{"arm": arm, "pillar": pillar, **_absent()} for pillar in PILLARS[2:]]
    return in_order(pd.DataFrame(found, columns=COLUMNS))


def _absent(why: str = NOT_MEASURED) -> dict[str, Any]:
    nothing = {"low": nan, "high": nan, "unit": "", "threshold": "", "attack": ""}
    return {"verdict": MISSING, "detail": why, "seeds": 0, **nothing}


def _capability(frames: Frames) -> dict[str, dict[int, float]]:
    """Capability g of the released model, by arm and seed."""
    rows = frames[Metric]
    rows = rows[(rows["name"] == "capability") & (rows["domain"] == ALL)]
    rows = rows[(rows["stage"] == "defence") | (rows["step"] == 0)]
    rows = rows.sort_values("stage").drop_duplicates(["arm", "seed"], keep="last")
    return {
        str(arm): dict(zip(part["seed"].tolist(), part["value"].tolist(), strict=True))
        for arm, part in rows.groupby("arm")
    }


def _resistance(runs: pd.DataFrame, params: FourPillarsParams) -> dict[str, Any]:
    """How many seeds held or broke, and the bounds on the median break step."""
    if not len(runs):
        return {"pillar": "resistance", **_absent()}
    last = runs.groupby("run")["step"].max()
    judged = runs.drop_duplicates("run")
    counts = judged["verdict"].value_counts()
    low, high = judged["safe_until"].median(), judged["break_step"].median()
    verdict = str(counts.index[0]) if len(counts) == 1 else "mixed"
    if verdict == "mixed":
        detail = f"{np.isfinite(judged['break_step']).sum()} of {len(judged)} broke"
    elif isfinite(high):
        detail = f"{high:g} steps" if low == -inf else f"{low:g}–{high:g} steps"
    else:
        detail = f"to step {last.min():g}" if verdict == "held" else f"after step {low:g}"
    return {
        "pillar": "resistance", "verdict": verdict, "detail": detail, "seeds": len(judged),
        "low": low, "high": high, "unit": "steps", "attack": judged["attack"].iloc[0],
        "threshold": f"φ={params.phi:g}, utility floor {params.utility_floor:g}",
    }  # fmt: skip


def _stability(
    arm: str, capability: Mapping[str, Mapping[int, float]], params: FourPillarsParams
) -> dict[str, Any]:
    """The change of capability against the matched control, seed by seed."""
    name, *settings = arm.split(" ")
    control = capability.get(" ".join([name + CONTROL, *settings]), {})
    mine = capability.get(arm, {})
    seeds = sorted(mine.keys() & control.keys())
    if not seeds:
        reference = name.endswith(CONTROL) or name == "undefended"
        return {"pillar": "stability", **_absent("reference" if reference else "no control")}
    judged = stability(
        [control[s] for s in seeds], [mine[s] for s in seeds], params.stability_margin
    )
    low, high = judged.interval or (nan, nan)
    return {
        "pillar": "stability", "verdict": judged.verdict, "seeds": len(seeds), "unit": "share",
        "detail": f"{points(judged.mean)}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
        "low": low, "high": high, "attack": "",
        "threshold": f"±{params.stability_margin:g}",
    }  # fmt: skip


def plot(table: pd.DataFrame, params: FourPillarsParams, theme: Theme) -> go.Figure:
    """A grid of words, as wide as they are; colour repeats what they say."""
    arms = list(dict.fromkeys(table["arm"]))
    grid = {(cell["arm"], cell["pillar"]): cell for _, cell in table.iterrows()}
    heads = [["resistance", f"φ = {params.phi:g}"],
             ["stability", f"margin ±{100 * params.stability_margin:g} pt"],
             ["generalisation", ""], ["trainability", ""]]  # fmt: skip
    words = [[head, *(_words(grid[arm, head[0]]) for arm in arms)] for head in heads]
    letters = [max(len(line) for cell in column for line in cell) for column in [[arms], *words]]
    edges = np.cumsum([0, *(n + GAP for n in letters)])
    size = min(theme.small, width(theme) / (edges[-1] * theme.advance * BOLD))
    figure = go.Figure()
    write = partial(_write, figure, size)
    for column, left, right in zip(words, edges[1:], edges[2:], strict=False):
        for lane, lines in enumerate(column, -1):
            write((left + right) / 2, lane + 0.5, lines)
    for lane, arm in enumerate(arms):
        write(GAP / 2, lane + 0.5, ["", arm], anchor="left")
        figure.add_hline(y=lane, line={"color": theme.grid, "width": 1})
        for head, left, right in zip(heads, edges[1:], edges[2:], strict=False):
            tint = theme.verdict(str(grid[arm, head[0]]["verdict"]))
            if tint is not None:
                _box(figure, rgba(tint, 0.14), left, right, lane)
    figure.update_xaxes(visible=False, range=[0, edges[-1]], fixedrange=True)
    figure.update_yaxes(visible=False, range=[len(arms), -1], fixedrange=True)
    return framed(figure, theme, panels=3.4 * theme.small * (len(arms) + 1), axis=False)


def _box(figure: go.Figure, fill: str, left: float, right: float, lane: int) -> None:
    """The ground of one cell."""
    figure.add_shape(
        type="rect", x0=left + 0.2, x1=right - 0.2, y0=lane + 0.08, y1=lane + 0.92,
        fillcolor=fill, line={"width": 0}, layer="below",
    )  # fmt: skip


def _words(cell: pd.Series) -> list[str]:
    """The verdict, and the number behind it."""
    verdict = str(cell["verdict"])
    return [SHORT.get(verdict, verdict), str(cell["detail"])]


def _write(
    figure: go.Figure, size: float, x: float, y: float, lines: list[str], anchor: str = "center"
) -> None:
    """A first line in bold, and a second; either may be empty."""
    first, second = map(escape, lines)
    text = "<br>".join([f"<b>{first}</b>"] * bool(first) + [second] * bool(second))
    figure.add_annotation(
        x=x, y=y, text=text, xanchor=anchor, yanchor="middle", align=anchor, showarrow=False,
        font={"size": size},
    )  # fmt: skip


def caption(table: pd.DataFrame, params: FourPillarsParams) -> str:
    """Seeds, attack and thresholds."""
    attack = next(filter(None, table["attack"]), MISSING)
    seeds = int(table["seeds"].max())
    return " · ".join([
        f"{seeds} seed{'s' if seeds != 1 else ''}", f"attack {attack}", f"φ={params.phi:g}",
        f"utility floor {params.utility_floor:g}",
        f"stability margin ±{100 * params.stability_margin:g} points",
    ])  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, and domains that have hazards, in these runs."""
    return attack_budget.options(frames)


HELP = """
Resistance: each seed's attack is judged by the first f > φ that the next evaluation confirms; the
cell gives the bounds on the median break step over seeds, or how far the runs went. `useful` means
that a harmful checkpoint kept at least the utility floor's share of the starting capability.
Stability: capability of the released model minus that of its matched control, seed by seed, two
one-sided t tests at 5 % against the stability margin; `undecided` with one seed, always.
A dash says that nothing was measured: neither good nor bad.

Source: Rosati et al., EMNLP Findings 2024, arXiv:2402.16382; Schuirmann 1987 for the tests.

What it does not show: attacks other than the one named, generalisation to hazards outside the
defended part of the world, or whether the model can still be trained for harmless ends.
""".strip()

FIGURE = Figure(
    name="four_pillars",
    title="Which defence held, and what did it cost?",
    page="overview",
    needs=(Metric, Cost),
    params=FourPillarsParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
