"""Terms of the objective while a model is trained: what a defence or an attack minimised, and how.

Every term that a method names has a panel of its own, so that terms which pull against each other
can be told apart; the gradient norm stands beside them.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import InvalidValueError
from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import line, thin
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import Loss

GRADIENT = "gradient norm"
FEW_POINTS = 150
"""Points that a line keeps when the reader does not say how many steps are averaged."""
PANEL = 13
"""Height of a panel, in letters."""
COLUMNS = ["arm", "attack", "panel", "seed", "step", "value", "steps"]


@dataclass(frozen=True, kw_only=True)
class TrainingTermsParams(Params):
    """What the terms of the objective show."""

    stage: Literal["defence", "attack"] = "defence"
    """Whose training: the defender's or the attacker's."""
    attack: str | None = None
    """Which attack, for the attacker's training; none for the first by name."""
    mean_of: int | None = None
    """Steps that each point is the mean of; none for as many as leave 150 points."""
    gradient: bool = True
    """Whether the gradient norm has a panel."""
    log: bool = False
    """Logarithmic values; what is not above zero cannot be shown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean_of is not None and self.mean_of < 1:
            raise InvalidValueError(f"mean_of must be at least 1 step, not {self.mean_of}.")


def data(frames: Frames, params: TrainingTermsParams) -> pd.DataFrame:
    """One line an arm, panel (a term, or the gradient norm), seed and group of steps."""
    rows = _rows(frames, params)
    parts = [rows.rename(columns={"term": "panel"})[[*COLUMNS[:-1], "run"]]]
    if params.gradient:
        norms = rows.drop_duplicates(["run", "step"]).assign(panel=GRADIENT)
        norms = norms.assign(value=norms["grad_norm"])
        parts.append(norms[[*COLUMNS[:-1], "run"]])
    table = pd.concat(parts, ignore_index=True)
    steps = params.mean_of or max(1, ceil(table["step"].nunique() / FEW_POINTS))
    # Groups end at the same steps in every run, so that seeds can be compared point by point.
    table["group"] = (table["step"] - 1).clip(lower=0) // steps
    table = table.groupby(["arm", "attack", "panel", "seed", "run", "group"], as_index=False).agg(
        step=("step", "max"), value=("value", "mean")
    )
    table["steps"] = steps
    table["place"] = table["panel"].map({p: place for place, p in enumerate(_panels(table))})
    return in_order(table, "place", "seed", "step")[COLUMNS]


def _rows(frames: Frames, params: TrainingTermsParams) -> pd.DataFrame:
    if params.stage == "attack":
        return frames.attacked(Loss, params.attack)
    rows = frames[Loss]
    return rows[rows["stage"] == "defence"]


def _panels(table: pd.DataFrame) -> list[str]:
    """Terms that most arms have come first, then by name; the gradient norm comes last."""
    arms = table.groupby("panel")["arm"].nunique().to_dict()
    return sorted(map(str, arms), key=lambda panel: (panel == GRADIENT, -arms[panel], panel))


def plot(table: pd.DataFrame, params: TrainingTermsParams, theme: Theme) -> go.Figure:
    """One panel a term, two beside each other, on one axis of steps; an odd last one is wide."""
    panels = _panels(table)
    columns = min(2, len(panels))
    count = ceil(len(panels) / columns)
    height, between = PANEL * theme.label, 3.6 * theme.label
    whole = count * height + (count - 1) * between
    rows: list[list[dict[str, int] | None]] = [[{} for _ in range(columns)] for _ in range(count)]
    if len(panels) % columns:
        rows[-1] = [{"colspan": 2}, None]
    figure = make_subplots(
        rows=count, cols=columns, specs=rows, shared_xaxes="all", horizontal_spacing=0.1,
        vertical_spacing=between / whole if count > 1 else 0,
        subplot_titles=[escape(panel) for panel in panels],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    if params.log:
        table = table.assign(value=table["value"].where(table["value"] > 0))
    named: set[str] = set()
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        for arm, part in table[table["panel"] == panel].groupby("arm", sort=False):
            traces = _traces(part, str(arm), theme, legend=arm not in named)
            figure.add_traces(traces, rows=row + 1, cols=column + 1)
            named.add(str(arm))
    figure.update_yaxes(
        **({"type": "log", "exponentformat": "power"} if params.log else {"nticks": 5})
    )
    figure.update_xaxes(showticklabels=True)
    title = "attack step" if params.stage == "attack" else "optimiser step"
    figure.update_xaxes(title=title, row=count)
    return framed(figure, theme, panels=whole, legend=sorted(named), heads=True)


def _traces(part: pd.DataFrame, arm: str, theme: Theme, *, legend: bool) -> list[go.Scatter]:
    look, name = theme.series(arm), escape(arm)
    by_seed = part.pivot_table(index="step", columns="seed", values="value")
    seeds = [thin(by_seed[seed].dropna(), look, name) for seed in by_seed]
    median = by_seed.dropna().median(axis=1)
    main = line(median, look, theme, name=name, legend=legend)
    main.update(mode="lines", hovertemplate="step %{x}: %{y:.3g}")
    return [*(seeds if len(seeds) > 1 else []), main]


def caption(table: pd.DataFrame, params: TrainingTermsParams) -> str:
    """Seeds, stage and what a point is the mean of."""
    steps = int(table["steps"].iloc[0])
    stage = f"attack {table['attack'].iloc[0]}" if params.stage == "attack" else "defence"
    return seeds_and(
        table, stage, f"each point the mean of {steps} steps" if steps > 1 else "every step",
        "median over seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks and stages that these runs have."""
    stages = sorted(frames[Loss]["stage"].unique().tolist(), reverse=True)
    return {"stage": stages} | frames.found(Loss, "attack")


HELP = """
Each named term of the objective as the optimiser saw it: the sum of the terms, weights included, is
what was minimised. The gradient norm is that of the whole objective, before clipping. Thick line:
median over seeds; thin lines: single seeds. Long runs are drawn as means over equally many steps.

Source: the losses that training wrote; which paper a term comes from is in its method's file.

What it does not show: how good the model became. Terms of different methods are not on one scale,
even under one name; a term that falls may fall because its weight is small or because another pays
for it; and each value is of one batch, before its step, of the data that was trained on.
""".strip()

FIGURE = Figure(
    name="training_terms",
    title="What does each term of the objective do while the model trains?",
    page="training",
    needs=(Loss,),
    params=TrainingTermsParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
