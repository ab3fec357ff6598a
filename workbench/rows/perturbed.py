"""What becomes of hidden states that are pushed: in the answer, and in the layers above."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class PerturbedNLL(Row):
    """By how much a push at each layer makes one example's response less likely (nats a token)."""

    kind: ClassVar[str] = "latent_nll"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    example: str
    group: Group
    family: Literal["random", "gradient"]
    draw: int
    """Which of the random directions; 0 for the gradient."""
    epsilon: float
    """Length of the push over the length of the state."""
    positions: Literal["last_prompt", "scored"]
    """Which tokens are pushed."""
    clean: float
    """The response's negative log-likelihood without a push (nats a token)."""
    values: list[float]
    """Layer 0 is the embeddings, the last entry the stream before the final norm."""


Family = Literal["random", "gradient", "steering", "real", "worst"]


@dataclass(frozen=True, kw_only=True)
class Amplification(Row):
    """How a push at one layer grows on its way up, a mean over prompts (and random draws)."""

    kind: ClassVar[str] = "amplification"
    axis: ClassVar[str] = "blocks_passed"

    stage: Stage
    step: int
    reference: str
    group: Group
    family: Family
    """`real`: the way the checkpoint went from the reference; `worst`: σ_max of the Jacobian."""
    epsilon: float
    """Length of the push over the length of the state; 0 for `worst`, which is a limit."""
    positions: Literal["last_prompt", "response"]
    """Which tokens are pushed and read."""
    from_layer: int
    """Where the push acts: 0 is the embeddings, l the stream after block l."""
    measure: Literal["gain", "relative", "angle"]
    """Growth of the length, growth relative to the length of the states, or degrees turned."""
    n: int
    """How many numbers each mean is over: prompts × draws."""
    values: list[float]
    """Entry k is read after k blocks, at layer from_layer + k; gain is 1 and angle 0 at entry 0."""


@dataclass(frozen=True, kw_only=True)
class Damper(Row):
    """How much smaller a push ends when one direction is taken out of the stream on its way."""

    kind: ClassVar[str] = "damper"
    axis: ClassVar[str] = "blocks_passed"

    stage: Stage
    step: int
    reference: str
    group: Group
    family: Family
    epsilon: float
    positions: Literal["last_prompt", "response"]
    from_layer: int
    """Where the push acts."""
    measure: Literal["fall", "control", "side_effect"]
    """Share by which the amplification up to layer L falls; the same when a random direction is
    taken out; and how far the damper alone moves h_L, over the length of h_L."""
    n: int
    values: list[float]
    """Entry k: the direction is taken out at layer from_layer + k, where the first is the push."""
