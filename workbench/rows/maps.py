"""Maps of hidden states, and how far they can be believed."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class DriftMapPoint(Row):
    """Where one example lies in a map that was fitted on the reference checkpoint and frozen."""

    kind: ClassVar[str] = "drift_map"

    stage: Stage
    step: int
    reference: str
    example: str
    group: Group
    site: str
    layer: int
    """Counted from 0, the first block."""
    positions: str
    """Which tokens were averaged."""
    method: Literal["tsne", "pca"]
    x: float
    y: float
    x_then: float
    """Where the reference's state of the same example lies, placed in the same way."""
    y_then: float


@dataclass(frozen=True, kw_only=True)
class MapQuality(Row):
    """One number that says how far a checkpoint's picture in a map can be believed."""

    kind: ClassVar[str] = "map_quality"

    stage: Stage
    step: int
    reference: str
    site: str
    layer: int
    positions: str
    method: Literal["tsne", "pca"]
    measure: Literal[
        "trustworthiness", "knn_kept", "drift", "relative_drift", "arrow_rank", "perplexity"
    ]
    """Shares in [0, 1], but for `drift` (in the units of the states), `relative_drift` (drift over
    the mean norm of the reference's states), `arrow_rank` in [−1, 1], and `perplexity` (0: PCA)."""
    value: float
    n: int
    """How many points stand behind the value."""
