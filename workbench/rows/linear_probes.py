"""What linear probes read out of hidden states, layer by layer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Row, Stage


@dataclass(frozen=True, kw_only=True)
class LinearProbes(Row):
    """How well a linear classifier tells hazardous from benign prompts, by layer, on held-out text.

    The states tested are always the checkpoint's own.
    """

    kind: ClassVar[str] = "linear_probes"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    site: str
    positions: str
    """Which token was read: `last_prompt`, or `mean_response` for the mean over the response."""
    estimator: str
    fitted: Literal["checkpoint", "reference"]
    """Whose states the classifier learnt from; `reference`: frozen, then put on the checkpoint."""
    trained_on: str
    """Texts learnt from: `all`, or a part of the domain."""
    tested_on: str
    """Texts judged: `all` (other folds than learnt from), another part, or `framed` hazards."""
    measure: Literal["auroc", "accuracy", "ece", "shuffled_auroc", "shuffled_low", "shuffled_high"]
    """`shuffled_*`: AUROC when labels were shuffled before learning: mean, 5 and 95 % quantile."""
    n: int
    """Prompts that were judged."""
    values: list[float]
