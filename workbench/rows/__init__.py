"""Every kind of row a measurement writes: the contract between measuring and showing.

One frozen dataclass a kind. A run folder holds one parquet table a kind, named `<kind>.parquet`;
the store adds the column `run` when it reads several. Scalars are long rows (one value a row);
a quantity over tokens or layers is one row per (checkpoint, example, measure) whose `values`
column is a float32 list over the axis that the class names in `axis`.

Units: `share` is a fraction in [0, 1]; entropies and divergences are in nats; `steps` are
optimiser steps; times are seconds; FLOPs follow the 6·N·tokens convention for a full step.
"""

from workbench.rows._base import Group, Row, Stage, columns, is_list
from workbench.rows.curves import Cost, Loss, Metric, Prefill
from workbench.rows.layers import EmbeddingDrift
from workbench.rows.texts import Generation, Prompt, Token
from workbench.rows.tokens import TokenKL

KINDS: dict[str, type[Row]] = {
    row.kind: row
    for row in (
        Metric,
        Cost,
        Loss,
        Prefill,
        Prompt,
        Generation,
        Token,
        TokenKL,
        EmbeddingDrift,
    )
}

__all__ = [
    "KINDS",
    "Cost",
    "EmbeddingDrift",
    "Generation",
    "Group",
    "Loss",
    "Metric",
    "Prefill",
    "Prompt",
    "Row",
    "Stage",
    "Token",
    "TokenKL",
    "columns",
    "is_list",
]
