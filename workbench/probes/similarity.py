"""Sets of states compared as wholes: how alike they are, and which way their mean went.

Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML
2019, arXiv:1905.00414. Drift counts how far states moved; a rotation of all of them moves them far
and changes nothing that a linear reader sees, and CKA and Procrustes do not count it. Directional
drift splits the mean shift by where it leads: along the reference's own direction from benign to
hazardous states, or across it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from workbench.probes._base import At, StateProbe
from workbench.probes._direction import HarmDirection
from workbench.probes._similarity import linear_cka, procrustes_residual
from workbench.rows import DirectionalDrift, Row, StateSimilarity
from workbench.states import States, StatesOf

MEASURES = {"cka": linear_cka, "procrustes": procrustes_residual}


@dataclass(frozen=True, kw_only=True)
class Similarity(StateProbe):
    """How alike each layer's states are to the reference's as a set, and where their mean went.

    Measures: linear CKA and the Procrustes residual of hazardous and of benign texts, and the
    shift of each kind's mean along the reference's harmful − benign direction and across it.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (StateSimilarity, DirectionalDrift)

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Compare with these states, along the direction between their two kinds."""
        both = [s for s in self.sites if {("hazard", s), ("benign", s)} <= then.keys()]
        directions = {site: _direction(then, site) for site in both}

        def compare(now: StatesOf, at: At) -> list[Row]:
            rows: list[Row] = []
            for (group, site), states in now.items():
                before = then[group, site]
                states.require_like(before)
                where: dict[str, object] = {
                    "stage": at.stage, "step": at.step, "reference": at.reference,
                    "group": group, "site": site, "positions": self.positions,
                }  # fmt: skip
                rows += _similarity(states, before, where)
                if site in directions:  # one kind of text alone has no direction of harm
                    shift = directions[site].shift(states.means(), before.means())
                    rows += _shift(shift, len(states.examples), where)
            return rows

        return compare


def _direction(then: StatesOf, site: str) -> HarmDirection:
    return HarmDirection.between(then["hazard", site].means(), then["benign", site].means())


def _similarity(now: States, then: States, where: dict[str, object]) -> list[StateSimilarity]:
    n = now.values.shape[1]
    return [
        StateSimilarity(
            **where, measure=name, n=n, values=alike(now.values, then.values).tolist()  # type: ignore[arg-type]
        )
        for name, alike in MEASURES.items()
    ]  # fmt: skip


def _shift(shift: dict[str, Tensor], n: int, where: dict[str, object]) -> list[DirectionalDrift]:
    return [
        DirectionalDrift(**where, measure=name, n=n, values=values.tolist())  # type: ignore[arg-type]
        for name, values in shift.items()
    ]
