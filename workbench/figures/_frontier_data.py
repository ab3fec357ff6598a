"""The table behind the frontier: where every arm breaks, and what it changed of capability."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from workbench.figures import attack_budget
from workbench.figures._arms import Arm, arms_of, base_of, intensities, reference_of
from workbench.figures._frames import Frames, in_order
from workbench.figures._params import Params
from workbench.figures._seeds import without_seed
from workbench.pillars import Thresholds
from workbench.report import ALL, DEFENDED
from workbench.rows import Metric

KEYS = ["arm", "base", "seed"]
COLUMNS = [*KEYS, "role", "line", "intensity", "place", "attack", "reference", "change",
           "against", "safe_until", "break_step", "budget"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FrontierParams(Params):
    """What the frontier shows."""

    attack: str | None = None
    """Which attack; none for the one that most runs have."""
    phi: float = Thresholds.phi
    """Harmfulness above which a model counts as broken (φ)."""
    stability_margin: float = Thresholds.stability_margin
    """Change of capability that is of no importance (share)."""
    domain: str = DEFENDED
    """Part of the world whose hazards count."""
    controls: bool = True
    """Whether matched controls are drawn too, as strokes at no change."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = Thresholds(phi=self.phi, stability_margin=self.stability_margin)  # says what is wrong


def data(frames: Frames, params: FrontierParams) -> pd.DataFrame:
    """One line an arm, base and seed (missing: all of them), with its place on both axes.

    `change` is the capability of the released model minus that of the reference, of the same base
    and seed; missing where there is nothing to compare with. `break_step` is inf where the model
    held to `budget`. Pooled: the mean change, and the medians of the bounds on the break.
    """
    names = frames[Metric].groupby("run")["arm"].first()
    arms = arms_of(frames.runs, dict(zip(names.index, names, strict=True)))
    by_name = {arm.name: arm for arm in arms.values()}
    single = _breaks(frames, params, arms)
    _describe(single, by_name)
    capability = _capability(frames, arms)
    keys = zip(single["arm"], single["reference"], single["base"], single["seed"], strict=True)
    single["change"] = [
        capability.get((arm, base, seed), nan) - capability.get((ref, base, seed), nan)
        for arm, ref, base, seed in keys
    ]
    if not (single["change"].notna() | (single["role"] == "undefended")).any():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat([single, _pooled(single)], ignore_index=True)
    lines = intensities(by_name.values())
    for column, name in enumerate(("line", "intensity", "place")):
        table[name] = [lines.get(arm, (arm, "", 0))[column] for arm in table["arm"]]
    return in_order(table[COLUMNS].astype({"seed": "Int64"}), "base", "seed")


def _breaks(frames: Frames, params: FrontierParams, arms: Mapping[str, Arm]) -> pd.DataFrame:
    """One line an attacked model: the bounds on its break, and how far its run went."""
    rows = attack_budget.data(
        frames,
        attack_budget.AttackBudgetParams(
            attack=params.attack or _usual(frames), phi=params.phi, domain=params.domain
        ),
    )
    runs = rows.groupby("run", as_index=False).agg(
        attack=("attack", "first"), seed=("seed", "first"), safe_until=("safe_until", "first"),
        break_step=("break_step", "first"), budget=("step", "max"),
    )  # fmt: skip
    bases = {run.id: base_of(run.model) for run in frames.runs}
    runs["arm"] = [arms[run].name for run in runs["run"]]
    runs["base"] = [bases[run] for run in runs["run"]]
    at_start = runs["safe_until"] == -np.inf
    first = runs["break_step"].where(runs["break_step"] < np.inf, runs["budget"])
    runs["safe_until"] = runs["safe_until"].where(~at_start, first)
    return runs.drop_duplicates(KEYS)


def _usual(frames: Frames) -> str | None:
    """The attack that most runs have; of several the first by name."""
    rows = frames[Metric]
    runs = rows[rows["stage"] == "attack"].groupby("attack")["run"].nunique()
    return None if runs.empty else str(runs.idxmax())


def _capability(frames: Frames, arms: Mapping[str, Arm]) -> dict[tuple[str, str, int], float]:
    """Capability g of every released model, by arm, base and seed."""
    rows = frames[Metric]
    rows = rows[(rows["name"] == "capability") & (rows["domain"] == ALL)]
    rows = rows[(rows["stage"] == "defence") | (rows["step"] == 0)].sort_values("stage")
    bases = {run.id: base_of(run.model) for run in frames.runs}
    return {
        (arms[run].name, bases[run], seed): value
        for run, seed, value in zip(rows["run"], rows["seed"], rows["value"], strict=True)
    }


def _describe(single: pd.DataFrame, arms: Mapping[str, Arm]) -> None:
    """Add role, and the arm that capability is compared with: itself, of a reference."""
    compared = {
        name: reference_of(arm, arms.values()) if arm.role == "defence" else arm
        for name, arm in arms.items()
    }
    single["role"] = [arms[name].role for name in single["arm"]]
    others = [compared[name] for name in single["arm"]]
    single["reference"] = ["" if other is None else other.name for other in others]
    single["against"] = ["" if other is None else other.role for other in others]


def _pooled(single: pd.DataFrame) -> pd.DataFrame:
    """One line an arm, over its bases and seeds."""
    pooled = single.groupby("arm", as_index=False).agg(
        role=("role", "first"), reference=("reference", "first"), against=("against", "first"),
        attack=("attack", "first"),
        change=("change", "mean"), safe_until=("safe_until", "median"),
        break_step=("break_step", "median"), budget=("budget", "median"),
    )  # fmt: skip
    return without_seed(pooled).assign(base="")
