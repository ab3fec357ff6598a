"""Butterfly amplification: how a push of one layer grows on its way to another, block by block.

Named after Yang, Sun, Ma, Liu, Yin & Cheng, "The butterfly effect of model editing: few edits can
trigger large language models collapse", ACL Findings 2024, arXiv:2402.09656.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import Checkpoint, of_checkpoint, where
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed, width
from workbench.figures._lines import curves
from workbench.figures._panels import FEW, colour_bar
from workbench.figures._params import Params
from workbench.figures._style import SEQUENTIAL, Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import Amplification

TITLES = {"gain": "gain", "relative": "relative gain", "angle": "angle, degrees",
          "growth": "growth log A / (m − l), nats a block"}  # fmt: skip
WAYS = {"random": "random pushes", "gradient": "pushes towards compliance",
        "steering": "pushes from benign to hazardous", "real": "pushes the way the checkpoint went",
        "worst": "largest singular value"}  # fmt: skip
PANEL = 130
"""Least width of a heat-map (px)."""


@dataclass(frozen=True, kw_only=True)
class AmplificationParams(Params):
    """What is shown of pushes on their way up."""

    checkpoint: Checkpoint = "attacked"
    """The released model, or the attacked one."""
    attack: str | None = None
    """Which attack, for attacked checkpoints; none for the first by name."""
    step: int | None = None
    """Attack step of attacked checkpoints; none for the last measured."""
    push: Literal["random", "gradient", "steering", "real", "worst"] = "gradient"
    """Random pushes, towards compliance, from benign to hazardous, the way the checkpoint went from
    its reference, or the largest singular value."""
    measure: Literal["gain", "relative", "angle", "growth"] = "gain"
    """Growth of the length, the same relative to the states', degrees turned, or log growth a
    block."""
    embeddings: bool = False
    """Show pushes of the embeddings, too; they grow most, because embeddings are short."""
    positions: Literal["last_prompt", "response"] = "last_prompt"
    """Which tokens were pushed and read."""


def data(frames: Frames, params: AmplificationParams) -> pd.DataFrame:
    """One line an arm, seed, pair of layers; means over prompts and draws."""
    rows = of_checkpoint(frames, Amplification, params.checkpoint, params.attack, params.step)
    stored = "gain" if params.measure == "growth" else params.measure
    rows = rows[(rows["family"] == params.push) & (rows["measure"] == stored)]
    rows = rows[(rows["positions"] == params.positions)]
    rows = rows[rows["from_layer"] >= (0 if params.embeddings else 1)]
    long = by_place(rows)
    if params.measure == "growth":
        long = long[(long["passed"] > 0) & (long["value"] > 0)]
        long = long.assign(value=np.log(long["value"]) / long["passed"])
    long = long.assign(to_layer=long["from_layer"] + long["passed"])
    kept = ["arm", "seed", "step", "from_layer", "to_layer", "value", "epsilon", "n"]
    return in_order(long[kept], "seed", "from_layer", "to_layer")


def by_place(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a value: `passed` counts the blocks it lies above `from_layer`."""
    places = rows["values"].map(lambda values: list(range(len(values))))
    long = rows.assign(passed=places, value=rows["values"]).explode(["passed", "value"])
    return long.dropna(subset=["value"]).astype({"passed": int, "value": np.float64})


def plot(table: pd.DataFrame, params: AmplificationParams, theme: Theme) -> go.Figure:
    """A heat-map an arm on one scale, below them what each block does alone."""
    arms = list(dict.fromkeys(table["arm"]))
    columns = max(1, min(len(arms), int(width(theme) // PANEL)))
    lines = -(-len(arms) // columns)
    heat = 10.0 * theme.label
    heights = [heat] * lines + [11.0 * theme.label]
    gap = 4.6 * theme.label
    total = sum(heights) + gap * lines
    figure = make_subplots(
        rows=lines + 1, cols=columns, row_heights=heights, shared_yaxes=True,
        vertical_spacing=gap / total, horizontal_spacing=0.05,
        subplot_titles=[escape(arm) for arm in arms],
        specs=[*([[{}] * columns] * lines), [{"colspan": columns}, *[None] * (columns - 1)]],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    log = params.measure in ("gain", "relative")
    for place, arm in enumerate(arms):
        row, column = divmod(place, columns)
        figure.add_trace(_heatmap(table[table["arm"] == arm], log), row=row + 1, col=column + 1)
        if column == 0:
            figure.update_yaxes(title="pushed layer l", row=row + 1, col=1)
        figure.update_xaxes(title="read layer m", row=row + 1, col=column + 1)
    last = lines + 1
    for arm in arms:
        figure.add_traces(_blocks(table[table["arm"] == arm], arm, theme), rows=last, cols=1)
    figure.update_xaxes(title="block", row=last, col=1)
    figure.update_yaxes(title=f"{_word(params)} of one block", row=last, col=1)
    if table["to_layer"].nunique() <= FEW:
        figure.update_xaxes(dtick=1)
    for row in range(1, lines + 1):
        figure.update_xaxes(showgrid=False, row=row).update_yaxes(showgrid=False, row=row)
        if table["from_layer"].nunique() <= FEW:
            figure.update_yaxes(dtick=1, row=row)
    figure.update_layout(coloraxis=_scale(table, params, theme, log, heat * lines / total))
    return framed(figure, theme, panels=total, legend=arms, heads=True)


def _heatmap(part: pd.DataFrame, log: bool) -> go.Heatmap:
    grid = part.pivot_table(index="from_layer", columns="to_layer", values="value", aggfunc="mean")
    z = grid.to_numpy(np.float64)
    return go.Heatmap(
        z=np.log2(np.where(z > 0, z, np.nan)) if log else z,
        customdata=z.tolist(),
        x=grid.columns.tolist(),
        y=grid.index.tolist(),
        coloraxis="coloraxis",
        hovertemplate="from %{y} to %{x}: %{customdata:.3g}<extra></extra>",
        hoverongaps=False,
    )


def _blocks(part: pd.DataFrame, arm: str, theme: Theme) -> list[go.Scatter]:
    """What one block makes of a push that acts right below it."""
    one = part[part["to_layer"] == part["from_layer"] + 1]
    one = one.assign(step=one["to_layer"], block=one["to_layer"])
    look = theme.series(arm)
    return curves(one, "block", "value", look, theme, name=escape(arm), legend=True)


def _scale(
    table: pd.DataFrame, params: AmplificationParams, theme: Theme, log: bool, share: float
) -> dict[str, Any]:
    """One colour scale for all heat-maps, beside them; powers of two where lengths are compared."""
    means = table.groupby(["arm", "from_layer", "to_layer"])["value"].mean()
    bar = colour_bar(theme, TITLES[params.measure], len=share, y=1, yanchor="top")
    low, high = float(means.min()), float(means.max())
    if log:
        low, high = (float(np.log2(max(x, 1e-9))) for x in (low, high))
        ticks = np.linspace(low, high, 5).tolist()
        bar |= {"tickvals": ticks, "ticktext": [f"{2**t:.2g}" for t in ticks]}
    scale = {"colorscale": SEQUENTIAL, "cmin": low, "colorbar": bar}
    return scale | {"cmax": high if high > low else low + 1}


def _word(params: AmplificationParams) -> str:
    return TITLES[params.measure].partition(" log")[0].partition(",")[0]


def caption(table: pd.DataFrame, params: AmplificationParams) -> str:
    """Prompts, seeds, the push and the step."""
    size = table["epsilon"].max()
    return seeds_and(
        table, f"mean over {int(table['n'].max())} pushes a seed", where(table, params.checkpoint),
        WAYS[params.push] + (f", ε = {size:g}" if size else ""), params.positions,
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, steps, pushes and positions that these runs have."""
    found = frames.found(Amplification, "attack", "step")
    found |= frames.found(Amplification, "family", "positions", stage=None)
    return found | {"push": found.pop("family")}


HELP = """
A_{l→m}(δ) = ‖h_m(h_l + δ) − h_m(h_l)‖ / ‖δ‖: the residual stream h_l after block l is pushed by δ
of length ε‖h_l‖ at the last prompt token, and read after block m at the same token; 1 for m = l.
`relative` has both lengths as shares of the states' own, `angle` is between δ and what arrives,
`growth` is log A / (m − l). `worst` is the largest singular value of the Jacobian ∂h_m/∂h_l, found
by power iteration: what no small push exceeds. Heat-maps: mean over prompts and seeds, colours
spaced by log₂ (gains); below: m = l + 1, what each block does alone (median over seeds; thin: each
seed). There is
nothing to read below the push.

Source: named after Yang et al., ACL Findings 2024, arXiv:2402.09656, who found that single weight
edits make models collapse; the measure of states is this workbench's own.

What it does not show: whether what grows matters to the answer. The stream's length grows with
depth, so gain above 1 is the rule: compare arms, or `relative`. Blocks that shrink a push need not
resist it, and gains of consecutive blocks do not multiply, because each block is measured with a
push of its own.
""".strip()

FIGURE = Figure(
    name="amplification",
    title="Which block makes small pushes grow?",
    page="layers",
    needs=(Amplification,),
    params=AmplificationParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
