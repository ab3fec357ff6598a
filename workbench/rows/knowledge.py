"""What a model still knows once it no longer refuses."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Row, Stage


@dataclass(frozen=True, kw_only=True)
class ResidualKnowledge(Row):
    """Share of hazardous requests that end in one verdict, once refusal was removed one way."""

    kind: ClassVar[str] = "residual_knowledge"

    stage: Stage
    step: int
    split: str
    """Which split the requests come from."""
    domain: str
    """Part of the world they come from, e.g. `defended` or `unseen`."""
    way: Literal["none", "prefixed", "ablated", "relearned"]
    """How refusal was removed."""
    strength: int
    """Tokens of the answer given, the layer whose direction was ablated, or steps of relearning."""
    measure: Literal["complied", "right", "success", "refused"]
    """Shares of the answers; `right`: mean share of the secret told. `right` and `success` are
    absent where the domain's judge cannot tell."""
    value: float
    n: int
    """How many requests stand behind the value."""
