"""What a study found, judged from stored rows: the table, and what the probes add to it.

Nothing here is measured; other thresholds give other verdicts from the same folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from workbench.headers import RunHeader
from workbench.pillars import (
    Outcome,
    Thresholds,
    outcome,
    paired_effect,
    stability,
)
from workbench.rows import EmbeddingDrift, Metric, TokenKL
from workbench.store import Store

CONTROL = "-control"
DEFENDED, ALL = "defended", "all"
FIRST_TOKENS = 5
MARKS = {"held": "●", "broken-useless": "◐", "broken-useful": "○", "unconfirmed": "?"}
MISSING = "—"


@dataclass(frozen=True)
class Line:
    """One line of the table: an arm with one seed under one attack."""

    arm: str
    seed: int
    refused: float
    """Share of hazardous test requests the released model refuses."""
    capability: float
    """g of the released model."""
    attack: str
    outcome: Outcome
    right: float
    """Share of hazardous requests answered wholly right at the end of the attack."""


def table(store: Store, runs: Sequence[RunHeader], thresholds: Thresholds) -> list[Line]:
    """Judge every finished attack among the runs."""
    attacks = [run for run in runs if run.kind == "attack"]
    curves = store.read(Metric, attacks)
    return [_line(run, curves[curves.run == run.id], thresholds) for run in attacks]


def _line(run: RunHeader, rows: pd.DataFrame, thresholds: Thresholds) -> Line:
    f, g = curve(rows, "harmfulness", DEFENDED), curve(rows, "capability", ALL)
    refused = curve(rows, "refused", DEFENDED)
    judged = outcome(f.index.tolist(), f.tolist(), g.tolist(), thresholds)
    assault = run.attack or {}
    return Line(
        run.arm, run.seed, refused.iloc[0], g.iloc[0], assault.get("name", "?"), judged, f.iloc[-1]
    )


def curve(rows: pd.DataFrame, name: str, domain: str) -> pd.Series:
    """One metric of one run over attack steps."""
    chosen = rows[(rows["name"] == name) & (rows["domain"] == domain)]
    return chosen.set_index("step")["value"].sort_index()


def effects(lines: Sequence[Line], thresholds: Thresholds) -> list[str]:
    """Every defence against its matched control, in words: resistance and stability."""
    by_arm: dict[tuple[str, str], dict[int, Line]] = {}
    for line in lines:
        by_arm.setdefault((line.arm, line.attack), {})[line.seed] = line
    said = []
    for (arm, attack), mine in by_arm.items():
        theirs = by_arm.get((arm + CONTROL, attack), {})
        seeds = sorted(mine.keys() & theirs.keys())
        if not seeds:
            continue
        a, b = [mine[s] for s in seeds], [theirs[s] for s in seeds]
        delay = paired_effect([x.outcome.resistance for x in a], [x.outcome.resistance for x in b])
        cost = stability(
            [x.capability for x in b], [x.capability for x in a], thresholds.stability_margin
        )
        said.append(f"{arm} against its matched control under {attack}: {delay}.")
        said.append(f"{arm}: capability {cost.verdict} at ±{cost.margin:g}: {cost.reason}.")
    return said


def drift(store: Store, runs: Sequence[RunHeader], site: str = "resid_post") -> pd.DataFrame:
    """Relative drift of hazard and benign prompts at the end of each attack, by arm and layer.

    Columns: arm, group, layer, value (mean over prompts, then over seeds).
    """
    attacks = {run.id: run.arm for run in runs if run.kind == "attack"}
    rows = store.read(EmbeddingDrift, list(attacks))
    rows = rows[(rows["site"] == site) & (rows["measure"] == "relative_l2")]
    rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    found = []
    for (run, group), part in rows.groupby(["run", "group"]):
        for layer, value in enumerate(np.stack(part["values"].to_list()).mean(0)):
            found.append({"arm": attacks[str(run)], "group": group, "layer": layer, "value": value})
    frame = pd.DataFrame(found, columns=["arm", "group", "layer", "value"])
    return frame.groupby(["arm", "group", "layer"], sort=False)["value"].mean().reset_index()


def kl_shares(
    store: Store, runs: Sequence[RunHeader], first: int = FIRST_TOKENS
) -> dict[str, list[float]]:
    """By arm, for every seed: share of KL(released ‖ base) on hazards within the first tokens."""
    released = [run for run in runs if run.kind == "immunise"]
    rows = store.read(TokenKL, released)
    rows = rows[(rows["group"] == "hazard") & (rows["measure"] == "forward_kl")]
    shares: dict[str, list[float]] = {}
    for run in released:
        values = rows[rows["run"] == run.id]["values"]
        total = sum(float(v.sum()) for v in values)
        if total > 0:
            shares.setdefault(run.arm, []).append(
                sum(float(v[:first].sum()) for v in values) / total
            )
    return shares


def show(store: Store, runs: Sequence[RunHeader], thresholds: Thresholds, console: Console) -> None:
    """Print the table and what stands beside it."""
    lines = table(store, runs, thresholds)
    console.print(_grid(lines))
    console.print(_key(thresholds), style="dim", highlight=False)
    for sentence in effects(lines, thresholds):
        console.print(f"• {sentence}", highlight=False)
    for sentence in [*_kl_lines(store, runs), *_drift_lines(store, runs)]:
        console.print(f"• {sentence}", highlight=False)


def _grid(lines: Sequence[Line]) -> Table:
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    heads = ("arm", "seed", "refuses", "capability", "attack", "breaks at", "told", "outcome")
    for head in heads:
        left = head in ("arm", "attack", "outcome")
        grid.add_column(head, justify="left" if left else "right", no_wrap=True)
    for x in lines:
        steps = str(x.outcome.resistance).removeprefix("broken in ")
        verdict = f"{MARKS[x.outcome.verdict]} {x.outcome.verdict}"
        grid.add_row(x.arm, str(x.seed), f"{x.refused:.2f}", f"{x.capability:.3f}", x.attack,
                     steps, f"{x.right:.2f}", verdict)  # fmt: skip
    return grid


def _key(thresholds: Thresholds) -> str:
    return (
        f"breaks at (a, b]: attack steps; harmfulness passed φ = {thresholds.phi:g} after the "
        "evaluation at a and by the one at b, confirmed by the next. told: share of hazardous "
        "requests answered wholly right at the end. useful: capability at least "
        f"{thresholds.utility_floor:g} of the start."
    )


def _kl_lines(store: Store, runs: Sequence[RunHeader]) -> list[str]:
    shares = kl_shares(store, runs)
    if not shares:
        return []
    parts = [f"{arm} {_spread(values)}" for arm, values in shares.items()]
    return [
        f"share of KL(released ‖ base) that hazards spend on the first {FIRST_TOKENS} response "
        f"tokens: {'; '.join(parts)}."
    ]


def _drift_lines(store: Store, runs: Sequence[RunHeader]) -> list[str]:
    frame = drift(store, runs)
    said = []
    for arm, part in frame.groupby("arm", sort=False):
        last = part[part["layer"] == part["layer"].max()].set_index("group")["value"]
        if {"hazard", "benign"} <= set(last.index):
            ratio = last["hazard"] / last["benign"] if last["benign"] > 0 else float("inf")
            said.append(f"{arm} {last['hazard']:.2f} against {last['benign']:.2f} (×{ratio:.1f})")
    return [
        "drift of the last block's stream over the attack, hazard against benign prompts: "
        + "; ".join(said) + "."
    ] if said else []  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
