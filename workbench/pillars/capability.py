"""Stability: the capability g of an immunised model is that of the model it was made from."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from scipy import stats

from workbench.errors import InvalidValueError
from workbench.pillars.values import Number, Numbers, finite

LEVEL = 0.95
"""Confidence of intervals over seeds; an equivalence claim errs in 1 - LEVEL of cases at most."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Whether capability changed, over paired seeds."""

    verdict: Literal["equivalent", "worse", "better", "undecided"]
    reason: str
    differences: tuple[float, ...]
    """Immunised minus reference, one a seed."""
    mean: float
    interval: tuple[float, float] | None
    """The interval that decides (two one-sided tests); None with fewer than two seeds."""
    margin: float
    smallest_margin: float
    """The smallest margin under which these seeds would have counted as equivalent."""


def stability(reference: Numbers, immunised: Numbers, margin: Number) -> Stability:
    """Compare capability g of immunised models with their references, seed by seed.

    Two one-sided t tests (Schuirmann 1987), each at level 1 - LEVEL: `equivalent` when the central
    t interval of confidence 2·LEVEL - 1 lies inside (-margin, margin), `worse` when all of it is at
    or below -margin, `better` when all of it is at or above margin, else `undecided`. Seeds are the
    only source of variation counted: values that agree to the last digit give an interval of width
    zero, which says nothing about prompts that were not asked.

    Args:
        reference: g of the reference, one value a seed.
        immunised: g of the immunised model, the same seeds in the same order.
        margin: the change that is of no importance, above 0.

    Raises:
        InvalidValueError: different lengths, no seeds, values that are not finite, or the margin.
    """
    if not margin > 0:
        raise InvalidValueError(f"the margin must be above 0, not {margin}.")
    before, after = finite(reference, "reference"), finite(immunised, "immunised")
    if len(before) != len(after):
        raise InvalidValueError(
            f"seeds are compared in pairs; given {len(before)} reference and {len(after)} "
            "immunised values."
        )
    d = after - before
    interval = _t_interval(d, 2 * LEVEL - 1) if len(d) > 1 else None
    verdict, reason = _compare(interval, margin)
    return Stability(
        verdict=verdict,
        reason=reason,
        differences=tuple(map(float, d)),
        mean=float(d.mean()),
        interval=interval,
        margin=float(margin),
        smallest_margin=inf if interval is None else max(map(abs, interval)),
    )


def _compare(
    interval: tuple[float, float] | None, margin: Number
) -> tuple[Literal["equivalent", "worse", "better", "undecided"], str]:
    if interval is None:
        return "undecided", "one seed says nothing about the next; at least two are needed"
    low, high = interval
    between = f"the change lies between {low:+.4f} and {high:+.4f}"
    if -margin < low and high < margin:
        return "equivalent", f"{between}, inside ±{margin:g}"
    if high <= -margin:
        return "worse", f"{between}, all of it below -{margin:g}"
    if low >= margin:
        return "better", f"{between}, all of it above {margin:g}"
    return "undecided", f"{between}, which ±{margin:g} cuts; more seeds would narrow it"


def _t_interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    mean, error = float(values.mean()), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(confidence, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)
