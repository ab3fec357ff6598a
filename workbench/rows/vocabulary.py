"""What distributions over the vocabulary say of each response position, and what moved in them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class TokenStatistics(Row):
    """One property of a checkpoint's, or its reference's, predictions at each response position.

    Over the prompts of a group whose response reaches the position.
    """

    kind: ClassVar[str] = "token_statistics"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    reference: str
    whose: Literal["checkpoint", "reference"]
    """Whose predictions these are."""
    group: Group
    measure: Literal["entropy", "nll", "gini", "refusal_mass"]
    """Entropy and negative log-likelihood in nats; 1 − Σ p² and refusal mass in [0, 1]."""
    values: list[float]
    """Mean over prompts; position 0 is the first response token."""
    low: list[float]
    """Lower quartile of the prompts."""
    high: list[float]
    """Upper quartile of the prompts."""
    prompts: list[float]
    """How many prompts reach the position."""


@dataclass(frozen=True, kw_only=True)
class TokenMover(Row):
    """A token whose probability at one response position is not what it is in the reference."""

    kind: ClassVar[str] = "token_movers"

    stage: Stage
    step: int
    reference: str
    group: Group
    example: str
    position: int
    """Response position; 0 is the first."""
    token: int
    piece: str
    p: float
    """Its probability in the checkpoint."""
    q: float
    """Its probability in the reference."""
    contribution: float
    """Its term p log(p/q) of KL(checkpoint ‖ reference) there (nats)."""
