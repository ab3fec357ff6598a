"""Quantities over the layers of a model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage


@dataclass(frozen=True, kw_only=True)
class EmbeddingDrift(Row):
    """How far one example's hidden states moved from the reference checkpoint, by layer."""

    kind: ClassVar[str] = "embedding_drift"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    example: str
    group: Group
    site: str
    """Short site name, e.g. `attn_module_out` (the paper's) or `resid_post`."""
    positions: str
    """Which tokens were averaged: `all`, `prompt`, `response` or `last_prompt`."""
    measure: Literal["l2", "relative_l2", "cosine_distance", "sum_sq"]
    """Means over the tokens, but `sum_sq`, the sum of ‖h − h_ref‖² over them."""
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class StateSimilarity(Row):
    """How alike a group's states are to the reference checkpoint's as a set, by layer."""

    kind: ClassVar[str] = "state_similarity"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    group: Group
    site: str
    positions: str
    measure: Literal["cka", "procrustes"]
    """Linear CKA (1: the same but for turning and scale), and the Procrustes residual (0: so)."""
    values: list[float]
    n: int
    """How many tokens are in the set."""


@dataclass(frozen=True, kw_only=True)
class DirectionalDrift(Row):
    """Which way a group's mean state moved, by layer, in gaps between hazardous and benign."""

    kind: ClassVar[str] = "directional_drift"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    """The checkpoint whose benign → hazardous direction, and whose gap, is meant."""
    group: Group
    site: str
    positions: str
    measure: Literal["along", "orthogonal", "along_share", "along_low", "along_high", "gap"]
    """Along the direction (1: one gap, negative: away) and across it; the share of along² in the
    squared shift; quartiles of `along` over examples; and the gap itself, over the mean norm of the
    reference's states: where it is tiny, everything in gaps is huge."""
    values: list[float]
    n: int
    """How many examples are in the group."""
