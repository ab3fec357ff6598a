"""Probes, by name: analyses of checkpoints that end in rows. To add one: its file, its line."""

from workbench.probes._base import At, Measurement, Probe, StateProbe
from workbench.probes.amplification import Butterfly
from workbench.probes.cosine import Cosine
from workbench.probes.drift import Drift
from workbench.probes.drift_map import DriftMapProbe
from workbench.probes.entropy import EntropyBound
from workbench.probes.latent_nll import LatentNLL
from workbench.probes.lens import LogitLens
from workbench.probes.linear_probe import LinearProbe
from workbench.probes.residual_knowledge import ResidualKnowledgeProbe
from workbench.probes.similarity import Similarity
from workbench.probes.starvation import Starvation
from workbench.probes.token_gradients import TokenGradientNorms
from workbench.probes.vocabulary import VocabularyPass
from workbench.probes.weights import Weights

PROBES: dict[str, type[Probe]] = {
    "cosine": Cosine,
    "amplification": Butterfly,
    "drift": Drift,
    "drift-map": DriftMapProbe,
    "entropy-bound": EntropyBound,
    "latent-nll": LatentNLL,
    "linear-probe": LinearProbe,
    "similarity": Similarity,
    "lens": LogitLens,
    "starvation": Starvation,
    "token-gradients": TokenGradientNorms,
    "residual-knowledge": ResidualKnowledgeProbe,
    "vocabulary": VocabularyPass,
    "weights": Weights,
}

__all__ = [
    "PROBES",
    "At",
    "Butterfly",
    "Cosine",
    "Drift",
    "DriftMapProbe",
    "EntropyBound",
    "LatentNLL",
    "LinearProbe",
    "LogitLens",
    "Measurement",
    "Probe",
    "ResidualKnowledgeProbe",
    "Similarity",
    "Starvation",
    "StateProbe",
    "TokenGradientNorms",
    "VocabularyPass",
    "Weights",
]
