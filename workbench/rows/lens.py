"""What hidden states would say if a layer were the last."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class LensByLayer(Row):
    """One property of the logit lens at one response position, by layer, over a group's prompts."""

    kind: ClassVar[str] = "lens_by_layer"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    """Empty where there is none."""
    whose: Literal["checkpoint", "reference"]
    """Whose lens this is."""
    group: Group
    position: int
    """Response position that is predicted; 0 from the last prompt token."""
    measure: Literal[
        "kl_to_final", "entropy", "nll", "rank", "refusal_mass", "committed", "kl_to_reference"
    ]
    """Divergences, entropy and negative log-likelihood in nats; `rank` counts likelier tokens;
    `refusal_mass` and `committed` are shares."""
    values: list[float]
    """Mean over prompts. Layer 0 are the embeddings, the last is the model's own output."""
    low: list[float]
    """Lower quartile of the prompts."""
    high: list[float]
    """Upper quartile of the prompts."""
    prompts: int
    """How many there are."""
