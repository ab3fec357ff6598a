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
    measure: Literal["l2", "relative_l2", "cosine_distance"]
    values: list[float]
