"""The policy gradient beside its entropy bound, over the steps of an attack.

Feng, Wang, Wei, Zhang, Gao, Zhan, Lv & Dong, "Token Buncher: shielding LLMs from harmful
reinforcement learning fine-tuning", preprint 2025, arXiv:2508.20697.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures._base import Figure
from workbench.figures._checkpoints import of_checkpoint
from workbench.figures._frames import Frames, in_order
from workbench.figures._layout import framed
from workbench.figures._lines import curves
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures._text import escape, seeds_and
from workbench.rows import PolicyBound

KEYS = ["arm", "seed", "step"]
ORDER = {"parameters": ("head", "last_block"), "reward": ("success", "complied", "right")}
"""Which comes first where nothing is asked for."""
WHOSE = {"head": "the head", "last_block": "head, final norm and last block"}
BESIDE = {
    "ratio": "measured / bound",
    "fuel": "RL fuel, σ√G",
    "sigma_R": "reward s.d. σ",
    "reward": "mean reward",
    "silent": "share of prompts with σ = 0",
    "gini_sum": "G = Σ(1 − Σπ²)",
}


@dataclass(frozen=True, kw_only=True)
class RLBoundParams(Params):
    """What the policy gradient beside its bound shows."""

    attack: str | None = None
    """Which attack; none for the first by name."""
    parameters: str | None = None
    """Whose gradient: `head`, or `last_block` for the final norm and last block, too; none for the
    first that was measured."""
    reward: str | None = None
    """What was rewarded: success, complied or right; none for the first that was measured."""
    beside: Literal["ratio", "fuel", "sigma_R", "reward", "silent", "gini_sum"] = "ratio"
    """What the second panel shows."""


def data(frames: Frames, params: RLBoundParams) -> pd.DataFrame:
    """One line an arm, seed and step, a column a measure; released models stand at step 0."""
    attacked = frames.attacked(PolicyBound, params.attack)
    released = of_checkpoint(frames, PolicyBound, "released", None, None).assign(step=0)
    known = set(zip(attacked["arm"], attacked["seed"], strict=True))
    alone = [pair not in known for pair in zip(released["arm"], released["seed"], strict=True)]
    rows = pd.concat([attacked, released[alone]]) if len(released) else attacked
    for column, order in ORDER.items():
        found = [name for name in order if name in set(rows[column])]
        wanted = getattr(params, column) or (found[0] if found else "")
        rows = rows[rows[column] == wanted]
    columns = ["measured", "bound", "entropy_bound", "lambda_upper", *BESIDE]
    if not len(rows):
        return pd.DataFrame(columns=[*KEYS, "of", "rewarded", "prompts", *columns])
    table = rows.pivot_table(index=KEYS, columns="measure", values="value").reindex(columns=columns)
    table.insert(0, "prompts", rows.groupby(KEYS)["n"].max())
    table.insert(0, "rewarded", rows["reward"].iloc[0])
    table.insert(0, "of", rows["parameters"].iloc[0])
    return in_order(table.reset_index().rename_axis(columns=None), "seed", "step")


def plot(table: pd.DataFrame, params: RLBoundParams, theme: Theme) -> go.Figure:
    """Gradient and bound on a logarithmic axis, and the chosen measure beside them."""
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.16,
        column_titles=["‖∇J‖, its bound dotted", BESIDE[params.beside]],
    )  # fmt: skip
    figure.update_annotations(font_size=theme.label)
    logged = table.assign(**{x: table[x].where(table[x] > 0) for x in ("measured", "bound")})
    for arm, part in logged.groupby("arm", sort=False):
        look, name = theme.series(str(arm)), escape(str(arm))
        left = curves(part, "step", "measured", look, theme, name=name, legend=True)
        bound = part.groupby("step")["bound"].median()
        left.append(
            go.Scatter(
                x=bound.index.tolist(),
                y=bound.tolist(),
                mode="lines+markers",
                legendgroup=name,
                showlegend=False,
                line={"color": look.ink, "dash": "dot", "width": theme.stroke},
                marker={"symbol": "line-ew-open", "size": theme.marker, "color": look.ink},
                hovertemplate="%{x}: bound %{y:.3g}",
            )
        )
        figure.add_traces(left, rows=1, cols=1)
        right = curves(part, "step", params.beside, look, theme, name=name, legend=False)
        figure.add_traces(right, rows=1, cols=2)
    figure.update_xaxes(title="attack step")
    figure.update_yaxes(title="norm", type="log", dtick=1, exponentformat="power", col=1)
    figure.update_yaxes(rangemode="tozero", col=2)
    if params.beside == "ratio":
        figure.add_hline(y=1, line={"color": theme.muted, "width": 1, "dash": "dot"}, col=2)
    arms = table["arm"].unique().tolist()
    return framed(figure, theme, panels=18 * theme.label, legend=arms, heads=True)


def caption(table: pd.DataFrame, params: RLBoundParams) -> str:
    """Prompts, seeds, parameters and reward."""
    chosen = table.iloc[0]
    return seeds_and(
        table, f"{int(table['prompts'].max())} hazards", f"gradient of {WHOSE[chosen['of']]}",
        f"reward: {chosen['rewarded']}", "median over seeds",
    )  # fmt: skip


def options(frames: Frames) -> dict[str, list[Any]]:
    """Attacks, parameters and rewards that these runs have."""
    rows = frames[PolicyBound]
    return frames.found(PolicyBound, "attack") | {
        name: [x for x in order if x in set(rows[name])] for name, order in ORDER.items()
    }


HELP = """
‖∇J‖ ≤ σ_R · Λ · √G, G = Σ_t E[1 − ‖π_t‖²], for J = E[R] over answers the model samples at
temperature 1 to hazardous requests, averaged over prompts. R is the domain's verdict on the
answer, σ_R its standard deviation within a prompt, Λ the largest spectral norm of ∂logits_t/∂θ.
Only the gradient of the parameters named below the figure is meant, on both sides. RL fuel is
σ_R·√G, the bound without Λ. Where all rollouts of a prompt earn the same, σ_R = 0 and a group
baseline gives no gradient at all; a ratio needs a prompt where they do not, and zeros cannot be
shown on the logarithmic axis. Released models that were not attacked stand at step 0.

Source: Feng et al., preprint 2025, arXiv:2508.20697; constant and proof in
`workbench/policy_bound.py`.

What it does not show: what many steps achieve. The bound is on one gradient at one point; it rises
again as soon as a few answers succeed. For the head Λ is an upper bound over all prefixes where the
final norm is a known one (`lambda_upper` in the table); elsewhere the largest of the prefixes that
were sampled stands in for it, and the bound is an estimate. σ_R and G are estimates from K
rollouts, and their noise makes the measured norm too large, not too small.
""".strip()

FIGURE = Figure(
    name="rl_bound",
    title="How strong is the policy gradient, and how strong could it be?",
    page="reinforcement",
    needs=(PolicyBound,),
    params=RLBoundParams,
    data=data,
    plot=plot,
    caption=caption,
    help=HELP,
    options=options,
)
