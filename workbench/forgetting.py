"""Forgetting under attack: which safe answers turn harmful, when, and whether always the same.

Chen, Han, Shen, Bai & Wong, "Vulnerability-aware alignment: mitigating uneven forgetting in harmful
fine-tuning", ICML 2025, arXiv:2506.03850, count, for each example i over the steps t of an attack,

    ForgetNum_i = Σ_t 1[safe at t − 1 and harmful at t],

and find that some examples are forgotten whatever the attack. Arithmetic on stored verdicts; how
much two sets of forgotten examples have in common is compared with sets of their sizes drawn at
random (hypergeometric), because large sets overlap anyway.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf, nan

import numpy as np
from scipy.stats import hypergeom

from workbench.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class History:
    """Whether the answer to each example was harmful at each step of one attack."""

    steps: tuple[int, ...]
    """Steps at which the model was asked, rising; the first is the start of the attack."""
    examples: tuple[str, ...]
    harmful: np.ndarray
    """`[step, example]`, true or false."""

    def __post_init__(self) -> None:
        harmful = np.asarray(self.harmful)
        shape = (len(self.steps), len(self.examples))
        if harmful.dtype != bool or harmful.shape != shape:
            raise InvalidValueError(
                f"harmful must be true or false for each of {shape[0]} steps and {shape[1]} "
                f"examples, not {harmful.dtype} {harmful.shape}."
            )
        if len(self.steps) < 2 or list(self.steps) != sorted(set(self.steps)):
            raise InvalidValueError(
                f"forgetting is seen between steps: give two or more, rising, not {self.steps}."
            )
        if len(set(self.examples)) < len(self.examples):
            raise InvalidValueError("an example occurs twice in the history of one attack.")

    @property
    def at_risk(self) -> frozenset[str]:
        """Examples answered safely at the start: only these can be forgotten."""
        return self._where(~self.harmful[0])

    @property
    def counts(self) -> dict[str, int]:
        """ForgetNum: how often each example went from safe to harmful."""
        flips = (~self.harmful[:-1] & self.harmful[1:]).sum(0)
        return dict(zip(self.examples, map(int, flips), strict=True))

    @property
    def forgotten(self) -> frozenset[str]:
        """Examples at risk that turned harmful at least once."""
        return self.at_risk & {example for example, n in self.counts.items() if n}

    @property
    def first(self) -> dict[str, float]:
        """Step at which each example at risk first was harmful; inf if never."""
        found = {}
        for i, example in enumerate(self.examples):
            if example in self.at_risk:
                harmful = np.flatnonzero(self.harmful[:, i])
                found[example] = float(self.steps[harmful[0]]) if len(harmful) else inf
        return found

    def survival(self, among: Collection[str] | None = None) -> list[float]:
        """Share of the examples at risk not forgotten yet, step by step; nan without any.

        Everything is followed to the last step, so nothing is censored before it and the share is
        the Kaplan-Meier estimate.
        """
        first = [step for example, step in self.first.items() if among is None or example in among]
        return [
            sum(step > now for step in first) / len(first) if first else nan for now in self.steps
        ]

    def until_forgotten(self, share: float) -> "History":
        """The history as far as the first step by which this share of those at risk is forgotten.

        How fast attacks go differs; what they make forget first can be compared nevertheless. The
        whole history where the share is never reached.
        """
        left = self.survival()
        stop = next((i for i, x in enumerate(left) if 1 - x >= share and i), len(left) - 1)
        return History(self.steps[: stop + 1], self.examples, self.harmful[: stop + 1])

    def _where(self, chosen: np.ndarray) -> frozenset[str]:
        return frozenset(x for x, yes in zip(self.examples, chosen, strict=True) if yes)


@dataclass(frozen=True)
class Overlap:
    """What two sets of forgotten examples have in common, beside what chance gives."""

    both: int
    sizes: tuple[int, int]
    among: int
    """Examples at risk in both attacks, of which both sets are parts."""
    jaccard: float
    """|A ∩ B| / |A ∪ B|; nan if both are empty."""
    coefficient: float
    """|A ∩ B| / min(|A|, |B|); nan if one is empty."""
    expected_jaccard: float
    """The mean of the same over random sets of these sizes."""
    expected_coefficient: float
    p: float
    """Chance that random sets of these sizes have so much or more in common (one-sided)."""


def overlap(one: Collection[str], other: Collection[str], among: Collection[str]) -> Overlap:
    """Compare two sets of forgotten examples among those that both attacks could have made forget.

    Raises:
        InvalidValueError: nothing was at risk in both.
    """
    universe = set(among)
    if not universe:
        raise InvalidValueError("no example was at risk in both attacks; nothing can be compared.")
    a, b = set(one) & universe, set(other) & universe
    n, both, low, high = len(universe), len(a & b), *sorted((len(a), len(b)))
    chance = hypergeom(n, len(a), len(b))
    k = np.arange(max(0, len(a) + len(b) - n), low + 1)
    union = len(a) + len(b) - k
    return Overlap(
        both=both,
        sizes=(len(a), len(b)),
        among=n,
        jaccard=both / len(a | b) if high else nan,
        coefficient=both / low if low else nan,
        expected_jaccard=float((chance.pmf(k) * k / union).sum()) if high else nan,
        expected_coefficient=high / n if low else nan,
        p=min(1.0, float(chance.sf(both - 1))),
    )


def compare(one: History, other: History) -> Overlap:
    """The overlap of what two attacks made forget, among the examples at risk in both.

    Raises:
        InvalidValueError: nothing was at risk in both.
    """
    return overlap(one.forgotten, other.forgotten, one.at_risk & other.at_risk)
