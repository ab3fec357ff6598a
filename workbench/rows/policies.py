"""What a model writes of itself: the spread of its sampled answers, and what feeds a policy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class ResponseEntropy(Row):
    """How undecided a model is at each position of its own sampled answers to one prompt."""

    kind: ClassVar[str] = "response_entropy"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    example: str
    group: Group
    measure: Literal["entropy", "gini"]
    """−Σ π log π in nats, or 1 − Σ π²."""
    values: list[float]
    """Mean over the rollouts that reach the position; 0 is the first response token."""


@dataclass(frozen=True, kw_only=True)
class PolicyBound(Row):
    """One quantity of the entropy bound on the policy gradient of a checkpoint."""

    kind: ClassVar[str] = "policy_bound"

    stage: Stage
    step: int
    parameters: Literal["head", "last_block"]
    """Which parameters gradient and Jacobian are of."""
    reward: Literal["success", "complied", "right"]
    """Which part of the verdict was rewarded."""
    measure: Literal[
        "reward", "sigma_R", "silent", "gini_sum", "entropy_sum", "fuel", "lambda_drawn",
        "lambda_upper", "bound", "entropy_bound", "measured", "ratio",
    ]  # fmt: skip
    """`silent`: share of prompts all of whose rollouts earn the same, so that σ_R = 0; `fuel`:
    σ_R·√gini_sum; `lambda_drawn`: Λ at the prefixes drawn; `lambda_upper`: what it cannot exceed
    after any, absent where that is not known, and the bound then has `lambda_drawn` in its place;
    `entropy_bound`: the bound with entropies; `ratio`: measured / bound, absent where both are
    0."""
    value: float
    n: int
    """How many prompts stand behind the value."""
