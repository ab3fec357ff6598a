"""How few tokens hold the KL between two checkpoints: depth of the budget, with intervals.

Qi et al., ICLR 2025, arXiv:2406.05946, call an alignment shallow if it changes little but the first
tokens. Here the *budget* is KL_k, the mean over the prompts whose response has a token k, for the
first K positions: those that at least half of the prompts reach. Its depth at q is the least k with
KL_0 + ... + KL_(k−1) ≥ q · total, beside the share of the first five tokens. A response that has
ended counts nowhere beyond its end, so short answers do not make a difference look shallow; they
only end what can be looked at.

How sure that is: prompts are resampled with replacement (Efron, Annals of Statistics 7, 1979),
which is the same as weighting each by how often it was drawn, so every resample is one row of a
quotient of products of matrices. Two arms that answered the same prompts are given the same
weights. K is that of the prompts as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Curve = Sequence[float] | np.ndarray
"""KL by response position."""
REACHED = 0.5
"""Share of the prompts that must reach a position; those of the last few alone say little."""
FIRST = 5
"""So many tokens are the first."""
RESAMPLES = 1000
LEVEL = 0.95
SUMMARIES = ("depth_50", "depth_90", "share_5")


@dataclass(frozen=True)
class Interval:
    """A number and where it lies with 95 % confidence over prompts; no bounds for one prompt."""

    value: float
    low: float | None = None
    high: float | None = None


def budget_share(values: Sequence[Curve], first: int) -> float:
    """Share of the KL budget spent on the first response tokens.

    >>> budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], first=1)
    0.8
    """
    budget = _budgets(_grid(values))[0]
    total = float(budget.sum())
    return float(budget[:first].sum()) / total if total > 0 else float("nan")


def depth(values: Sequence[Curve], q: float) -> float:
    """The least number of tokens that hold the share q of the budget; NaN without any KL.

    >>> depth([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 0.9)
    2.0
    """
    return float(_depths(_budgets(_grid(values)), q)[0])


def padded(values: Sequence[Curve]) -> np.ndarray:
    """One line a prompt, zero where its response has ended, so that lines can be added up."""
    grid = np.zeros((len(values), max(map(len, values), default=0)))
    for line, numbers in zip(grid, values, strict=True):
        line[: len(numbers)] = numbers
    return grid


def intervals(prompts: Mapping[str, Curve], seed: int = 0) -> dict[str, Interval]:
    """Every summary of one arm with its interval.

    Args:
        prompts: example to KL by response position (summed over seeds, if there are several).
        seed: of the resampling.
    """
    grid = _grid(list(prompts.values()))
    drawn = _summaries(_budgets(grid, weights(len(grid), seed)))
    found = {name: values[0] for name, values in _summaries(_budgets(grid)).items()}
    return {name: _interval(found[name], drawn[name], len(grid)) for name in SUMMARIES}


def differences(
    one: Mapping[str, Curve], other: Mapping[str, Curve], seed: int = 0
) -> dict[str, Interval]:
    """One arm's summaries minus another's, paired over the prompts that both have.

    Empty if they have none in common.
    """
    shared = [name for name in one if name in other]
    if not shared:
        return {}
    a, b = (_grid([arm[name] for name in shared]) for arm in (one, other))
    drawn = weights(len(shared), seed)
    means = [_summaries(_budgets(x)) for x in (a, b)]
    tries = [_summaries(_budgets(x, drawn)) for x in (a, b)]
    return {
        name: _interval(
            means[0][name][0] - means[1][name][0], tries[0][name] - tries[1][name], len(shared)
        )
        for name in SUMMARIES
    }


def weights(n: int, seed: int = 0) -> np.ndarray:
    """How often each of n prompts is drawn in each resample; one line a resample."""
    if not n:
        return np.zeros((RESAMPLES, 0))
    random = np.random.default_rng(seed)
    return random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def _grid(values: Sequence[Curve]) -> np.ndarray:
    """One line a prompt, NaN where its response has ended; positions that enough of them reach."""
    grid = padded(values)
    lengths = np.array([len(line) for line in values], int)
    there = np.arange(grid.shape[1]) < lengths[:, None]
    return np.where(there, grid, np.nan)[:, there.sum(0) >= REACHED * len(values)]


def _budgets(grid: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    """Mean KL by position over the prompts that reach it; one line a resample, or one of all."""
    counts = np.ones((1, len(grid))) if drawn is None else drawn
    reached = counts @ ~np.isnan(grid)
    return np.divide(counts @ np.nan_to_num(grid), reached, out=reached * 0.0, where=reached > 0)


def _summaries(budgets: np.ndarray) -> dict[str, np.ndarray]:
    """The summaries of budgets by position, one a line."""
    total = budgets.sum(1)
    share = np.full(len(budgets), np.nan)
    np.divide(budgets[:, :FIRST].sum(1), total, out=share, where=total > 0)
    return dict(zip(SUMMARIES, (_depths(budgets, 0.5), _depths(budgets, 0.9), share), strict=True))


def _depths(budgets: np.ndarray, q: float) -> np.ndarray:
    if not budgets.shape[1]:
        return np.full(len(budgets), np.nan)
    spent = budgets.cumsum(1)
    total = spent[:, -1:]
    reached = spent >= q * total * (1 - 1e-12)  # rounding must not add a token
    return np.where(total[:, 0] > 0, 1.0 + reached.argmax(1), np.nan)


def _interval(value: float, drawn: np.ndarray, prompts: int) -> Interval:
    drawn = drawn[~np.isnan(drawn)]  # resamples of prompts without any KL
    if prompts < 2 or np.isnan(value) or not len(drawn):
        return Interval(float(value))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))
