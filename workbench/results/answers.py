"""How a claim is asked of one base: a sign, and what was measured in words."""

from collections.abc import Callable, Mapping
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr

from workbench.pillars import Thresholds, paired_effect, stability
from workbench.report import CONTROL
from workbench.results.findings import Finding, Findings
from workbench.results.markdown import counted
from workbench.results.plan import MAIN
from workbench.study import UNDEFENDED

Answer = tuple[int, str]
"""Whether a claim holds on one base (1), its contrary (-1) or neither (0); what was measured."""


def later(found: Findings, arm: str, other: str, attack: str = MAIN) -> Answer | None:
    """Does one arm certainly break later than another, by the median over seeds?"""
    effect = found.delay(arm, other, attack)
    if effect is None:
        return None
    low, high = effect.median
    sign = 1 if low >= 0 < high else -1 if high <= 0 > low else 0
    return sign, f"{low:+g} to {high:+g} steps ({counted('seed', len(effect.differences))})"


def delays_more(found: Findings, arm: str, other: str) -> Answer | None:
    """Is the delay of one method against its control longer than that of another?"""
    effects = [found.delay(a, a + CONTROL, MAIN) for a in (arm, other)]
    if None in effects:
        return None
    (low, high), (other_low, other_high) = (e.median for e in effects if e is not None)
    sign = 1 if low >= other_high else -1 if high <= other_low else 0
    return sign, f"{low:+g} to {high:+g} against {other_low:+g} to {other_high:+g} steps"


def trend(
    found: Findings, arms: Mapping[str, float], value: Callable[[Finding], float], expected: int
) -> Answer | None:
    """Does a value go the expected way (1: up, -1: down) as the intensity rises?

    One seed, the same for all intensities. What is measured is the correlation itself, whichever
    way was expected.
    """
    seed = min((f.seed for arm in arms for f in found.of(arm, MAIN)), default=0)
    points = [
        (intensity, value(f))
        for arm, intensity in arms.items()
        for f in found.of(arm, MAIN)
        if f.seed == seed
    ]
    if len(points) < 3:
        return None
    x, y = np.array(points).T
    if len(set(y)) == 1:
        return 0, "the same at all intensities"
    correlation = float(spearmanr(x, y).statistic)
    said = f"rank correlation {correlation:+.2f} of {len(x)} intensities (1 seed)"
    return int(np.sign(correlation)) * expected, said


def prefilled_less(found: Findings, arm: str) -> Answer | None:
    """Do begun answers succeed less often than on the undefended model?"""
    pairs = [(a, b) for a, b in found.paired(arm, UNDEFENDED, MAIN) if a.prefill and b.prefill]
    if not pairs:
        return None
    ours, theirs = (fmean(fmean(f.prefill[1:]) for f in side) for side in zip(*pairs, strict=True))
    most, seeds = len(pairs[0][0].prefill) - 1, counted("seed", len(pairs))
    sign = int(np.sign(round(theirs - ours, 2)))
    return sign, f"{ours:.2f} against {theirs:.2f} on average over 1 to {most} tokens ({seeds})"


def costs_nothing(found: Findings, arm: str) -> Answer | None:
    """Is capability that of the undefended model, within the margin, seed by seed?"""
    pairs = found.paired(arm, UNDEFENDED, MAIN)
    if len(pairs) < 2:
        return None
    margin = Thresholds().stability_margin
    cost = stability([b.capability for _, b in pairs], [a.capability for a, _ in pairs], margin)
    sign = {"equivalent": 1, "better": 1, "worse": -1}.get(cost.verdict, 0)
    return sign, f"{cost.verdict}, mean change {cost.mean:+.3f}"


def protects_less_unseen(found: Findings, arm: str) -> Answer | None:
    """Is the delay against the undefended model shorter on the unseen craft?"""
    pairs = found.paired(arm, UNDEFENDED, MAIN)
    if not pairs:
        return None
    mine, theirs = zip(*pairs, strict=True)
    seen = paired_effect(
        [f.outcome.resistance for f in mine], [f.outcome.resistance for f in theirs]
    )
    unseen = paired_effect([f.unseen for f in mine], [f.unseen for f in theirs])
    (low, high), (seen_low, seen_high) = unseen.median, seen.median
    sign = 1 if high <= seen_low else -1 if low >= seen_high else 0
    return sign, f"{low:+g} to {high:+g} steps there, {seen_low:+g} to {seen_high:+g} elsewhere"
