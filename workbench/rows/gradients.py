"""Gradients of the loss: by token and part of the model, and by group of examples."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage

GroupBy = Literal["kind", "domain", "cluster"]
"""`kind` of text (hazard, benign, refused), `domain` of the question, `cluster` of gradients."""


@dataclass(frozen=True, kw_only=True)
class TokenGradient(Row):
    """Gradient norm, or loss, of each response token of one example, for one part of the model."""

    kind: ClassVar[str] = "token_gradients"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    example: str
    group: Group
    part: str
    """`embed`, `block.0`, ..., `head` (final norm and head), `other`, or `total`."""
    measure: Literal["norm", "nll"]
    """`norm` of the token's gradient, or its loss (nats), which has the part `total`."""
    values: list[float]
    """Position 0 is the first response token."""


@dataclass(frozen=True, kw_only=True)
class GradientShare(Row):
    """What one group of examples has in the mean gradient of all."""

    kind: ClassVar[str] = "gradient_shares"

    stage: Stage
    step: int
    group_by: GroupBy
    group: str
    measure: Literal["share", "norm", "gsnr"]
    """`share` of the mean gradient (sums to 1 over groups, may be negative), `norm` of the group's
    own mean gradient, `gsnr` = norm² / variance within the group (absent where that is zero)."""
    value: float
    n: int
    """Examples in the group."""


@dataclass(frozen=True, kw_only=True)
class GradientCosine(Row):
    """Cosine between the mean gradients of two groups of examples."""

    kind: ClassVar[str] = "gradient_cosines"

    stage: Stage
    step: int
    group_by: GroupBy
    group: str
    other: str
    value: float
    n: int
    """Examples in both groups together."""
