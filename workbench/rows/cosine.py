"""How alike two checkpoints' hidden states are at each layer and token, and where they part."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Group, Row, Stage

CosineMeasure = Literal["cosine", "norm", "norm_reference"]
"""cos(h_ref, h), ‖h‖ of the checkpoint and ‖h_ref‖ of the reference, at the same token."""


@dataclass(frozen=True, kw_only=True)
class TokenCosine(Row):
    """One layer of one prompt with its fixed response: a line of the layer × token map."""

    kind: ClassVar[str] = "token_cosine"
    axis: ClassVar[str] = "position"

    stage: Stage
    step: int
    reference: str
    example: str
    group: Group
    site: str
    layer: int
    """Counted from 0, the lowest block."""
    measure: CosineMeasure
    prompt_tokens: int
    """Positions before this one are the prompt's, the others the response's."""
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class CosineProfile(Row):
    """One layer over the response positions: a statistic over the prompts that reach them."""

    kind: ClassVar[str] = "cosine_profile"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    reference: str
    group: Group
    site: str
    layer: int
    measure: CosineMeasure
    statistic: Literal["mean", "q05", "q25", "q75", "q95"]
    """Mean or quantile over prompts."""
    prompts: list[float]
    """How many prompts reach each position."""
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class LayerCosine(Row):
    """One example's mean over its response tokens, by layer."""

    kind: ClassVar[str] = "layer_cosine"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    example: str
    group: Group
    site: str
    measure: CosineMeasure
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class BreakPoint(Row):
    """Where one group's cosine first lies below that of benign prompts, one number a row.

    Without a break there are no rows of `layer`, `token` and `onset`.
    """

    kind: ClassVar[str] = "break_points"

    stage: Stage
    step: int
    reference: str
    group: Group
    """The group that is compared with benign prompts: `hazard` or `framed`."""
    site: str
    measure: Literal[
        "layer",
        "token",
        "onset",
        "p",
        "statistic",
        "critical",
        "peak_layer",
        "peak_token",
        "cosine",
        "benign",
        "threshold",
    ]
    """`layer`: the lowest with a significant token; `token`: the first one in it; `onset`: the
    first in any layer, so many response tokens pass before the break (all from 0). `p`: of the
    largest studentised difference over all layers and tokens (`statistic`, at `peak_layer` and
    `peak_token`), family-wise; it must exceed `critical`. `cosine`, `benign`: means of the group
    and of benign prompts at the break, or else at the peak; below `threshold` is significant."""
    value: float
    n: int
    """Prompts of the group."""
