"""What several seeds show together: effects of a defence seed by seed, and summaries.

A break step is known up to the spacing of the evaluations, and only as far as the run went. Nothing
here pretends to more: censored values stay bounds, and intervals say how often they are right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy import stats

from workbench.errors import InvalidValueError
from workbench.pillars.breaking import Resistance
from workbench.pillars.capability import LEVEL
from workbench.pillars.values import Number, Numbers


@dataclass(frozen=True, kw_only=True)
class PairedEffect:
    """By how many steps a defence delays the break, seed by seed, against its matched control."""

    differences: tuple[tuple[float, float], ...]
    """Break step of the defence minus that of the control, as bounds, one pair a seed."""
    median: tuple[float, float]
    """Bounds on the median difference; infinite where runs ended before the break."""
    later: int
    """Seeds in which the defence certainly broke later than the control."""
    sooner: int
    undecided: int
    """Seeds whose evaluations, or the ends of whose runs, leave the order open."""

    def __str__(self) -> str:
        low, high = self.median
        return (
            f"median delay between {low:+g} and {high:+g} steps; later in {self.later}, sooner in "
            f"{self.sooner}, open in {self.undecided} of {len(self.differences)} seeds"
        )


def paired_effect(defence: Sequence[Resistance], control: Sequence[Resistance]) -> PairedEffect:
    """Compare break steps seed by seed, using only what the evaluations show.

    A break lies in (last safe step, first step above φ]; a model that held to T, or whose crossing
    is unconfirmed, breaks after its last safe step, if ever; one broken at its first evaluation
    breaks there. The difference of two such intervals is an interval, and the median of
    differences lies between the medians of the lower and of the upper bounds.

    Raises:
        InvalidValueError: different lengths or no seeds.
    """
    if len(defence) != len(control) or not defence:
        raise InvalidValueError(
            f"a defence is compared with its control seed by seed; given {len(defence)} and "
            f"{len(control)} runs."
        )
    pairs = [(_bounds(a), _bounds(b)) for a, b in zip(defence, control, strict=True)]
    bounds = [(a[0] - b[1], a[1] - b[0]) for a, b in pairs]
    later = sum(low >= 0 < high for low, high in bounds)
    sooner = sum(high <= 0 > low for low, high in bounds)
    return PairedEffect(
        differences=tuple(bounds),
        median=(_median([low for low, _ in bounds]), _median([high for _, high in bounds])),
        later=later,
        sooner=sooner,
        undecided=len(bounds) - later - sooner,
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One number over seeds: all of them, their median, and an interval if there are enough."""

    values: dict[int, float]
    """Seed to value. Infinite: beyond the end of that seed's run."""
    median: float
    interval: tuple[float, float] | None
    """Order statistics that enclose the median of all seeds; None with fewer than three."""
    confidence: float | None
    """How often such an interval is right: below LEVEL with fewer than six seeds."""


def summarise(values: Mapping[int, Number]) -> Summary:
    """Summarise one measurement over seeds, without assuming a distribution.

    The interval from the k-th smallest to the k-th largest of n values encloses the population's
    median with probability 1 - 2·P(Binomial(n, 1/2) < k); k is the largest that reaches LEVEL, or
    1. Break steps of models that held enter as inf (`Resistance.break_step`), and stay exact.

    Raises:
        InvalidValueError: no values, or one that is not a number.
    """
    if not values or any(np.isnan(v) for v in values.values()):
        raise InvalidValueError(f"a summary needs one number a seed; given {dict(values)}.")
    ordered = sorted(values.values())
    n = len(ordered)
    enough = [k for k in range(1, n // 2 + 1) if _coverage(n, k) >= LEVEL]
    k = max(enough, default=1)
    return Summary(
        values={seed: float(value) for seed, value in sorted(values.items())},
        median=_median(ordered),
        interval=(float(ordered[k - 1]), float(ordered[n - k])) if n >= 3 else None,
        confidence=_coverage(n, k) if n >= 3 else None,
    )


def _coverage(n: int, k: int) -> float:
    return float(1 - 2 * stats.binom.cdf(k - 1, n, 0.5))


def _bounds(run: Resistance) -> tuple[float, float]:
    """Between which steps the break lies."""
    if run.verdict == "broken" and run.safe_until == -inf:
        return run.break_step, run.break_step
    return (run.budget if run.safe_until == -inf else run.safe_until), run.break_step


def _median(values: Numbers) -> float:
    return float(np.median(values))
