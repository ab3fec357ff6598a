"""Layer × token map of the cosine between two checkpoints, with the point where they part.

Zou et al., "Improving alignment and robustness with circuit breakers", NeurIPS 2024,
arXiv:2406.04313: on a harmful prompt with a prefilled answer, the states of a rerouted model leave
those of the original at some layer and token.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._cosine_data import long, with_breaks, with_pieces
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._panels import FEW, colour_bar
from workbench.figures._params import Params
from workbench.figures._style import DIVERGING, SEQUENTIAL, Theme
from workbench.figures._text import escape, seeds_and
from workbench.figures._token_ticks import of_one_text, room, ticks, with_room
from workbench.rows import BreakPoint, CosineProfile, Token, TokenCosine

GROUPS = {"hazard": "hazardous", "benign": "benign", "framed": "framed hazardous"}
ACROSS = {"prompt": "prompt, a gap, response", "mean": "response token (0 is the first)"}
"""What x is, by what is shown."""


@dataclass(frozen=True, kw_only=True)
class CosineMapParams(Params):
    """What the layer × token map shows."""

    checkpoint: Checkpoint = "released"
    """The released model beside the one before alignment, or the attacked beside the released."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    show: Literal["prompt", "mean"] = "prompt"
    """One hazardous prompt with its answer, or the mean over prompts by response token."""
    prompt: str | None = None
    """Which prompt, by its id; none for the first."""
    group: Literal["hazard", "benign", "framed"] = "hazard"
    """Which prompts the mean is over, and whose break points are shown; of benign prompts there are
    none, so that hazardous ones' are."""
    measure: Literal["cosine", "norm_ratio"] = "cosine"
    """Cosine of the two states, or the checkpoint's norm over the reference's."""
    site: str = "resid_post"
    """Where in each block the hidden states are read."""


def data(frames: Frames, params: CosineMapParams) -> pd.DataFrame:
    """One line an arm, layer and token: mean over seeds, and how many break there first."""
    kind = TokenCosine if params.show == "prompt" else CosineProfile
    rows = _of(frames, kind, params)
    if params.show == "prompt":
        first = next(iter(rows["example"]), "") if params.prompt is None else params.prompt
        rows = rows[rows["example"] == first]
    else:
        rows = rows[(rows["group"] == params.group) & (rows["statistic"] == "mean")]
        rows = rows.assign(example="", prompt_tokens=0)
    keys = ["arm", "step", "reference", "layer", "example", "prompt_tokens"]
    table = long(rows, [*keys, "seed"], "position", params.measure)
    table = table.groupby([*keys, "position"], as_index=False).agg(
        seeds=("seed", "nunique"), value=("value", "mean")
    )
    table["response"] = table["position"] - table["prompt_tokens"]
    points = _of(frames, BreakPoint, params)
    table = with_breaks(table, points[points["group"] == _breaking(params)])
    return in_order(with_pieces(table, frames), "layer", "position")


def _breaking(params: CosineMapParams) -> str:
    """Whose break points are shown: each is of hazards beside benign prompts."""
    return "framed" if params.group == "framed" else "hazard"


def _of(frames: Frames, kind: Any, params: CosineMapParams) -> pd.DataFrame:
    rows = of_checkpoint(frames, kind, params.checkpoint, params.attack, params.step)
    return rows[rows["site"] == params.site]


def plot(table: pd.DataFrame, params: CosineMapParams, theme: Theme) -> go.Figure:
    """One map an arm, on one colour scale; between prompt and response is a gap."""
    arms = list(dict.fromkeys(table["arm"]))
    table = table.assign(
        x=table["position"] + ((table["response"] >= 0) & (table["example"] != ""))
    )
    own = params.show == "prompt" and not of_one_text(table)
    line = 2.2 * theme.label + own * (1.7 * theme.small + room(table, theme))
    inner = max(6, min(FEW, table["layer"].nunique())) * theme.label
    height = len(arms) * (inner + line) - line
    figure = make_subplots(
        rows=len(arms), cols=1, shared_xaxes=True,
        vertical_spacing=min(line / height, 0.9 / len(arms)),
        subplot_titles=[_title(table[table["arm"] == arm]) for arm in arms],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label, x=0, xanchor="left", xshift=0)
    for row, arm in enumerate(arms, 1):
        part = table[table["arm"] == arm]
        figure.add_trace(_heatmap(part, params), row=row, col=1)
        figure.add_trace(_marks(part, theme), row=row, col=1)
        if own or (params.show == "prompt" and arm == arms[-1]):
            figure.update_xaxes(**ticks(part if own else table, theme), row=row)
    layers = table["layer"].nunique()
    figure.update_yaxes(title="layer", showgrid=False, dtick=1 if layers <= FEW else None)
    figure.update_yaxes(range=[-0.5, table["layer"].max() + 0.5])
    figure.update_xaxes(showgrid=False, range=[-0.5, table["x"].max() + 0.5])
    figure.update_xaxes(title=ACROSS[params.show], row=len(arms))
    figure.update_layout(coloraxis=_scale(table["value"], params, theme))
    figure = framed(figure, theme, panels=height, heads=True)
    return figure if params.show == "mean" else with_room(figure, table, theme)


def _title(part: pd.DataFrame) -> str:
    """The arm, and where it breaks."""
    arm, tested = escape(str(part["arm"].iloc[0])), int(part["tested"].max())
    if not tested:
        return arm
    low, high = (float(part[name].iloc[0]) for name in ("p_low", "p_high"))
    p = f"p = {low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"p = {low:.2g}–{high:.2g}"
    cells = part[part["breaks"] > 0]
    if not len(cells):
        return f"{arm}: no break ({p})"
    usual = cells.sort_values("breaks", ascending=False, kind="stable").iloc[0]
    seeds = f"{int(cells['breaks'].sum())}/{tested} seeds, " if tested > 1 else ""
    return f"{arm}: layer {usual['layer']}, token {usual['response']} ({seeds}{p})"


def _heatmap(part: pd.DataFrame, params: CosineMapParams) -> go.Heatmap:
    shown = part.assign(value=_shown(part["value"], params))
    grid = shown.pivot(index="layer", columns="x", values="value")
    grid = grid.reindex(columns=range(int(grid.columns.max()) + 1))
    pieces = part.groupby("x")["piece"].first().map(escape).reindex(grid.columns, fill_value="")
    value = "%{z:.3f}" if params.measure == "cosine" else "2^%{z:.2f}"
    return go.Heatmap(
        z=grid.to_numpy(np.float32), x=grid.columns.tolist(), y=grid.index.tolist(),
        coloraxis="coloraxis", hoverongaps=False,
        hovertext=[pieces.tolist()] * len(grid),
        hovertemplate="layer %{y}, %{hovertext}: " + value + "<extra></extra>",
    )  # fmt: skip


def _shown(values: pd.Series, params: CosineMapParams) -> pd.Series:
    return values if params.measure == "cosine" else np.log2(values.clip(lower=1e-6))


def _marks(part: pd.DataFrame, theme: Theme) -> go.Scatter:
    cells = part[part["breaks"] > 0]
    return go.Scatter(
        x=cells["x"].tolist(), y=cells["layer"].tolist(), mode="markers", showlegend=False,
        hovertemplate="break point: layer %{y}<extra></extra>",
        marker={"symbol": "diamond", "size": theme.marker * 1.4, "color": "#ffffff",
                "line": {"color": "#000000", "width": max(1.0, theme.stroke * 0.6)}},
    )  # fmt: skip


def _scale(values: pd.Series, params: CosineMapParams, theme: Theme) -> dict[str, Any]:
    if params.measure == "cosine":
        bar = colour_bar(theme, "cosine")
        low = min(0.9, float(np.floor(values.min() * 10) / 10))
        return {"colorscale": SEQUENTIAL, "cmin": low, "cmax": 1.0, "colorbar": bar}
    limit = max(0.1, float(_shown(values, params).abs().max()))
    powers = [-limit, 0.0, limit]
    words = [f"{2**k:.2g}×" for k in powers]
    bar = colour_bar(theme, "norm / reference’s", tickvals=powers, ticktext=words)
    return {"colorscale": [list(x) for x in DIVERGING], "cmin": -limit, "cmax": limit,
            "colorbar": bar}  # fmt: skip


def caption(table: pd.DataFrame, params: CosineMapParams) -> str:
    """Seeds, prompt, step and reference."""
    seeds = int(table["seeds"].max())
    beside = ", ".join(sorted(set(table["reference"])))
    what = (
        f"prompt {escape(str(table['example'].iloc[0]))}"
        if params.show == "prompt"
        else f"mean over {GROUPS[params.group]} prompts"
    )
    counted = pd.DataFrame({"seed": range(seeds)})
    return seeds_and(
        counted, what, f"{where(table, params.checkpoint)} against {beside}", params.site,
        f"diamond: break point of a seed, {GROUPS[_breaking(params)]} beside benign prompts",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps, prompts and sites that these runs have."""
    found = frames.found(TokenCosine, "attack", "step")
    found |= frames.found(TokenCosine, "site", stage=None)
    return found | {"prompt": frames[TokenCosine]["example"].unique().tolist()}


HELP = """
cos(h_ref, h) = ⟨h_ref, h⟩ / (‖h_ref‖ ‖h‖) of the two models' hidden states at every layer (up) and
token (across) of one fixed text: a hazardous prompt and a compliant answer that is given, not
generated. Mean over seeds. Or ‖h‖ / ‖h_ref‖ (of many prompts: mean over mean), on a logarithmic
scale around 1.

The break point (diamond) is the lowest layer, and in it the first response token, at which the
cosine on all hazardous prompts lies significantly below that on benign ones: studentised
difference of means, its maximum over all layers and tokens compared with that of 1000 shuffles of
which prompt is hazardous (family-wise error 5 %). p is of that maximum; it cannot be below 1/1001.

Source: Zou et al., NeurIPS 2024, arXiv:2406.04313. The test is ours, after Westfall & Young (1993).

What it does not show: behaviour. States can turn in directions that nothing reads, and a small
turn can change the answer. A break where the defence was never trained to reroute is a difference
like any other: alignment, too, moves hazards more than benign text. No break means that none was
found with so many prompts, not that there is none.
""".strip()

FIGURE = Figure(
    name="cosine_map",
    title="At which layer and token do the two models part?",
    page="layers",
    needs=(TokenCosine, CosineProfile, BreakPoint, Token),
    params=CosineMapParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
