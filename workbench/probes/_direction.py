"""How far, and which way, the mean of a group of states went: towards the harmful ones, or aside.

The direction of a concept is the difference of two means: Marks & Tegmark, "The geometry of truth",
COLM 2024, arXiv:2310.06824; Arditi et al., "Refusal in language models is mediated by a single
direction", NeurIPS 2024, arXiv:2406.11717. Here it is the reference model's, hazardous − benign.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InvalidValueError

Points = Float[Tensor, "layer example d_model"]
ByLayer = Float[Tensor, " layer"]


@dataclass(frozen=True, eq=False)
class HarmDirection:
    """The way from the mean benign to the mean hazardous state, at every layer."""

    unit: Float[Tensor, "layer d_model"]
    gap: ByLayer
    """Distance between the two means: the unit that shifts are given in."""
    relative_gap: ByLayer
    """The same over the mean norm of the states: where it is tiny, there is hardly a direction."""

    @classmethod
    def between(
        cls,
        hazard: Float[Tensor, "layer hazard d_model"],
        benign: Float[Tensor, "layer benign d_model"],
    ) -> "HarmDirection":
        """The direction from benign to hazardous states, one state an example.

        Raises:
            InvalidValueError: at some layer both means are the same.
        """
        way = hazard.double().mean(1) - benign.double().mean(1)
        gap = way.norm(dim=-1)
        if not (gap > 0).all():
            layers = ", ".join(map(str, (gap == 0).nonzero().flatten().tolist()))
            raise InvalidValueError(
                f"hazardous and benign states have the same mean at layer {layers}, so there is "
                "no direction from one to the other. Look at other positions."
            )
        size = torch.cat([hazard, benign], dim=1).double().norm(dim=-1).mean(1)
        return cls(way / gap[:, None], gap, gap / size)

    def shift(self, now: Points, then: Points) -> dict[str, ByLayer]:
        """The shift of a group's mean, in units of the gap, along the direction and across it.

        `along` is (Δ̄·u) / gap, Δ̄ the mean of h − h_ref over examples: 1 has gone as far towards
        the harmful mean as it lay from the benign one, negative away from it. `orthogonal` is
        ‖Δ̄ − (Δ̄·u)u‖ / gap, so along² + orthogonal² = (‖Δ̄‖ / gap)². `along_share` is along² over
        that sum, 0 without a shift; a shift in a random direction has 1/d. `along_low` and
        `along_high` are quartiles of (Δ·u) / gap over examples; `gap` is the relative one.
        """
        moved = (now.double() - then.double()) / self.gap[:, None, None]
        each = torch.einsum("led,ld->le", moved, self.unit)
        mean, along = moved.mean(1), each.mean(1)
        orthogonal = (mean - along[:, None] * self.unit).norm(dim=-1)
        total = along.square() + orthogonal.square()
        low, high = each.quantile(torch.tensor([0.25, 0.75], dtype=each.dtype), dim=1)
        share = torch.where(total > 0, along.square() / total.where(total > 0, 1), 0)
        return {
            "along": along,
            "orthogonal": orthogonal,
            "along_share": share,
            "along_low": low,
            "along_high": high,
            "gap": self.relative_gap,
        }
