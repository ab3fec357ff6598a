"""What the runs of a campaign say, as one tidy line an attack and a few statistics on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean, median

import pandas as pd

from workbench.headers import RunHeader
from workbench.lab.checkpoints import parse
from workbench.pillars import (
    Outcome,
    PairedEffect,
    Resistance,
    Thresholds,
    outcome,
    paired_effect,
    resistance,
)
from workbench.report import ALL, DEFENDED, curve
from workbench.rows import Metric, Prefill
from workbench.store import Store

UNSEEN = "unseen"


@dataclass(frozen=True)
class Finding:
    """One attack on one arm."""

    base: int
    """Seed of the pre-training."""
    arm: str
    seed: int
    attack: str
    refused: float
    """Share of hazardous requests that the released model refuses."""
    capability: float
    """g of the released model."""
    outcome: Outcome
    unseen: Resistance
    """The same attack, judged on the craft of which neither saw harmful data (see `lab.domain`)."""
    told: float
    """Share of hazardous requests answered rightly at the end."""
    prefill: tuple[float, ...]
    """Success of the released model when k = 0, 1, ... answer tokens are given."""


class Findings(list[Finding]):
    """All of them, and how to ask for some."""

    @property
    def bases(self) -> list[int]:
        """Seeds of the pre-trainings."""
        return sorted({f.base for f in self})

    def on(self, base: int) -> "Findings":
        """Those on one base."""
        return Findings(f for f in self if f.base == base)

    def of(self, arm: str, attack: str) -> list[Finding]:
        """Those of one arm under one attack, by base and seed."""
        found = [f for f in self if (f.arm, f.attack) == (arm, attack)]
        return sorted(found, key=lambda f: (f.base, f.seed))

    def paired(self, arm: str, other: str, attack: str) -> list[tuple[Finding, Finding]]:
        """Findings of two arms on the same base and seed."""
        theirs = {(f.base, f.seed): f for f in self.of(other, attack)}
        return [
            (f, theirs[f.base, f.seed]) for f in self.of(arm, attack) if (f.base, f.seed) in theirs
        ]

    def delay(self, arm: str, other: str, attack: str) -> PairedEffect | None:
        """By how many steps one arm breaks later than another; None without pairs."""
        pairs = self.paired(arm, other, attack)
        if not pairs:
            return None
        mine, theirs = zip(*pairs, strict=True)
        return paired_effect(
            [f.outcome.resistance for f in mine], [f.outcome.resistance for f in theirs]
        )


def findings(store: Store, runs: Sequence[RunHeader], limits: Thresholds) -> Findings:
    """Judge every attack among the runs."""
    attacks = [run for run in runs if run.kind == "attack"]
    curves = store.read(Metric, attacks)
    prefill = store.read(Prefill, [run for run in runs if run.kind == "immunise"])
    prefills = {run: _shares(part) for run, part in prefill.groupby("run")}
    by_run = dict(list(curves.groupby("run")))
    return Findings(
        _finding(run, by_run[run.id], prefills.get(run.parents[0], ()), limits) for run in attacks
    )


def _finding(
    run: RunHeader,
    rows: pd.DataFrame,
    prefill: tuple[float, ...],
    limits: Thresholds,
) -> Finding:
    f, g = curve(rows, "harmfulness", DEFENDED), curve(rows, "capability", ALL)
    unseen = curve(rows, "harmfulness", UNSEEN)
    return Finding(
        base=parse(run.model).base,
        arm=run.arm,
        seed=run.seed,
        attack=(run.attack or {})["name"],
        refused=float(curve(rows, "refused", DEFENDED).iloc[0]),
        capability=float(g.iloc[0]),
        outcome=outcome(f.index.tolist(), f.tolist(), g.tolist(), limits),
        unseen=resistance(unseen.index.tolist(), unseen.tolist(), limits.phi),
        told=float(f.iloc[-1]),
        prefill=prefill,
    )


def _shares(rows: pd.DataFrame) -> tuple[float, ...]:
    """Mean success at each k over the hazards of the defended crafts that reach it."""
    values = [list(v) for v in rows[rows["domain"] == DEFENDED]["values"]]
    longest = max(map(len, values), default=0)
    return tuple(fmean(v[k] for v in values if len(v) > k) for k in range(longest))


def median_break(found: Iterable[Resistance]) -> tuple[float, float]:
    """Bounds on the median break step: medians of last safe and of first broken evaluations."""
    judged = list(found)
    return median(max(r.safe_until, 0.0) for r in judged), median(r.break_step for r in judged)


def interval(bounds: tuple[float, float]) -> str:
    """Bounds on a step, as text."""
    low, high = bounds
    if low >= high:
        return f"{high:g}"
    return f"> {low:g}" if not isfinite(high) else f"({low:g}, {high:g}]"


def middle(bounds: tuple[float, float]) -> float:
    """One number for a bounded step; infinite if it has no upper bound."""
    return inf if not isfinite(bounds[1]) else sum(bounds) / 2
