"""Every kind of row a measurement writes: the contract between measuring and showing.

One frozen dataclass a kind. A run folder holds one parquet table a kind, named `<kind>.parquet`;
the store adds the column `run` when it reads several. Scalars are long rows (one value a row);
a quantity over tokens or layers is one row per (checkpoint, example, measure) whose `values`
column is a float32 list over the axis that the class names in `axis`.

Units: `share` is a fraction in [0, 1]; entropies and divergences are in nats; `steps` are
optimiser steps; times are seconds; FLOPs follow the 6·N·tokens convention for a full step.
"""

from workbench.rows._base import Group, Row, Stage, columns, is_list
from workbench.rows.cosine import BreakPoint, CosineProfile, LayerCosine, TokenCosine
from workbench.rows.curves import Cost, Loss, Metric, Prefill
from workbench.rows.gradients import GradientCosine, GradientShare, TokenGradient
from workbench.rows.knowledge import ResidualKnowledge
from workbench.rows.layers import DirectionalDrift, EmbeddingDrift, StateSimilarity
from workbench.rows.lens import LensByLayer
from workbench.rows.linear_probes import LinearProbes
from workbench.rows.maps import DriftMapPoint, MapQuality
from workbench.rows.perturbed import Amplification, Damper, PerturbedNLL
from workbench.rows.policies import PolicyBound, ResponseEntropy
from workbench.rows.texts import Generation, Prompt, Token
from workbench.rows.tokens import TokenKL
from workbench.rows.vocabulary import TokenMover, TokenStatistics
from workbench.rows.weights import WeightChange

KINDS: dict[str, type[Row]] = {
    row.kind: row
    for row in (
        Metric,
        Cost,
        Loss,
        Prefill,
        WeightChange,
        Prompt,
        Generation,
        Token,
        TokenKL,
        TokenStatistics,
        TokenMover,
        LensByLayer,
        EmbeddingDrift,
        PerturbedNLL,
        Amplification,
        Damper,
        StateSimilarity,
        DirectionalDrift,
        DriftMapPoint,
        MapQuality,
        ResponseEntropy,
        PolicyBound,
        ResidualKnowledge,
        TokenCosine,
        CosineProfile,
        LayerCosine,
        BreakPoint,
        LinearProbes,
        TokenGradient,
        GradientShare,
        GradientCosine,
    )
}

__all__ = [
    "KINDS",
    "Amplification",
    "BreakPoint",
    "CosineProfile",
    "Cost",
    "Damper",
    "DirectionalDrift",
    "DriftMapPoint",
    "EmbeddingDrift",
    "Generation",
    "GradientCosine",
    "GradientShare",
    "Group",
    "LayerCosine",
    "LensByLayer",
    "LinearProbes",
    "Loss",
    "MapQuality",
    "Metric",
    "PerturbedNLL",
    "PolicyBound",
    "Prefill",
    "Prompt",
    "ResidualKnowledge",
    "ResponseEntropy",
    "Row",
    "Stage",
    "StateSimilarity",
    "Token",
    "TokenCosine",
    "TokenGradient",
    "TokenKL",
    "TokenMover",
    "TokenStatistics",
    "WeightChange",
    "columns",
    "is_list",
]
