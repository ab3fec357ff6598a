"""Quantities over the weights of a model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Row, Stage

Measure = Literal["norm", "relative_norm", "share", "angle", "kept", "by_chance"]


@dataclass(frozen=True, kw_only=True)
class WeightChange(Row):
    """How far, and in which direction, one part of the weights is from the reference's."""

    kind: ClassVar[str] = "weight_changes"

    stage: Stage
    step: int
    reference: str
    """The checkpoint the difference is taken from."""
    beside: str
    """The other checkpoint whose difference from the reference an angle is with; else empty."""
    part: str
    """`embedding`, `block 0`, ..., `final norm`, `head`, or `all`."""
    measure: Measure
    """‖τ‖; ‖τ‖/‖θ_reference‖; share of ‖τ‖² in this part; angle to the other change τ' and
    half-width of the 95 % band of random directions around 90 (degrees); ⟨τ, τ'⟩/‖τ'‖²: how much of
    the other change is still in this one."""
    value: float
    n: int
    """Parameters in this part."""
