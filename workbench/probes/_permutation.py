"""Where one group of curves lies below another: a permutation test of the largest difference.

Prompts are exchangeable if the group does not matter. Shuffling which prompt belongs to which group
and keeping, each time, the largest studentised difference over all cells gives the distribution of
that maximum; a cell whose difference exceeds its (1 − α) quantile is significant with a family-wise
error of at most α, however many cells there are and however they hang together.

Westfall & Young, Resampling-Based Multiple Testing (Wiley 1993); Nichols & Holmes, Human Brain
Mapping 15 (2002), doi:10.1002/hbm.1058. Studentised as in Chung & Romano, Annals of Statistics 41
(2013), arXiv:1304.5939, so that groups of unequal variance do not pass for groups of unequal means.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

REACHED = 0.5
"""Share of each group's prompts that a cell must have to be tested."""
ROUNDING = 1e-6
"""Differences of means below this count as none, standard errors below it as it (fp32 states)."""
TIE = 1e-9
"""Differences closer than this are equal, and count against us."""
CHUNK = 64
"""Permutations at a time."""


@dataclass(frozen=True, eq=False)
class Fall:
    """The cells where one group lies below the other."""

    p: float
    """Of the largest difference, family-wise; at least 1 / (permutations + 1)."""
    critical: float
    """What a studentised difference must exceed."""
    differences: Float[np.ndarray, " cell"]
    """Studentised, other − group; minus infinity where too few prompts reach the cell."""
    errors: Float[np.ndarray, " cell"]
    """Standard error of each difference."""

    @property
    def significant(self) -> Bool[np.ndarray, " cell"]:
        """Cells where the group is lower than chance allows."""
        return np.asarray(self.differences > self.critical + TIE)

    @property
    def peak(self) -> int:
        """The cell of the largest studentised difference."""
        return int(self.differences.argmax())


def falls_below(
    group: Float[np.ndarray, "n cell"],
    other: Float[np.ndarray, "m cell"],
    *,
    alpha: float = 0.05,
    permutations: int = 1000,
    seed: int = 0,
) -> Fall | None:
    """Test, in every cell at once, whether a group's mean is below the other's.

    Args:
        group: one row a prompt; NaN where a prompt does not reach.
        other: the same of the prompts compared with.
        alpha: family-wise error.
        permutations: of the prompts' labels, beside the true one.
        seed: of the permutations.

    Returns:
        The cells that fall; None where no cell has two prompts of both groups.
    """
    values = np.concatenate([group, other])
    there = ~np.isnan(values)
    first = np.arange(len(values)) < len(group)
    tested = _reached(there, first)
    if not tested.any():
        return None
    there, values = there[:, tested], values[:, tested]
    # Means are taken out first: what is left is small, and its squares lose no digits.
    centre = np.where(there, values, 0.0).sum(0) / there.sum(0)
    values = np.where(there, values - centre, 0.0)
    true, errors = _studentised(values, there, first[None])
    random = np.random.default_rng(seed)
    shuffled = random.permuted(np.tile(first, (permutations, 1)), axis=1)
    largest = np.concatenate(
        [
            _studentised(values, there, shuffled[i : i + CHUNK])[0].max(1)
            for i in range(0, permutations, CHUNK)
        ]
    )
    largest = np.append(largest, true.max())  # the true labelling is one of them
    critical = float(np.sort(largest)[int(np.ceil((1 - alpha) * len(largest))) - 1])
    whole = np.full((2, len(tested)), -np.inf)
    whole[:, tested] = true[0], errors[0]
    p = float((largest >= true.max() - TIE).mean())
    return Fall(p, critical, whole[0], whole[1])


def _reached(
    there: Bool[np.ndarray, "n cell"], first: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " cell"]:
    """Cells that enough prompts of both groups have."""
    counts = np.stack([there[first].sum(0), there[~first].sum(0)])
    sizes = np.array([first.sum(), (~first).sum()])[:, None]
    return np.all((counts >= 2) & (counts >= REACHED * sizes), axis=0)


def _studentised(
    values: Float[np.ndarray, "n cell"],
    there: Bool[np.ndarray, "n cell"],
    first: Bool[np.ndarray, "way n"],
) -> tuple[Float[np.ndarray, "way cell"], Float[np.ndarray, "way cell"]]:
    """(mean of the others − mean of the first) / its standard error, and that error (Welch)."""
    squares, present = values**2, there.astype(float)
    means, variances, few = [], [], np.zeros((len(first), values.shape[1]), bool)
    for chosen in (first.astype(float), (~first).astype(float)):
        n = chosen @ present
        few |= n < 2
        mean = chosen @ values / np.maximum(n, 1)
        spread = np.maximum(chosen @ squares / np.maximum(n, 1) - mean**2, 0)
        means.append(mean)
        variances.append(spread / np.maximum(n - 1, 1))
    error = np.maximum(np.sqrt(variances[0] + variances[1]), ROUNDING)
    gap = means[1] - means[0]
    gap[np.abs(gap) < ROUNDING] = 0.0
    return np.where(few, -np.inf, gap / error), error
