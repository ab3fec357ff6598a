"""Quantities over the tokens of a response."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class TokenKL(Row):
    """KL divergence between two checkpoints at each response position of one example (nats)."""

    kind: ClassVar[str] = "token_kl"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    reference: str
    """The checkpoint q in KL(p ‖ q); p is the checkpoint measured."""
    example: str
    group: Group
    measure: Literal["forward_kl", "reverse_kl", "js"]
    """KL(p ‖ q), KL(q ‖ p), or the Jensen-Shannon divergence, which is at most log 2."""
    values: list[float]
    """Position 0 is the first response token, predicted from the last prompt token."""
