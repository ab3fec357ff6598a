"""Probes, by name: analyses of checkpoints that end in rows. To add one: its file, its line."""

from workbench.probes._base import At, Measurement, Probe, StateProbe
from workbench.probes.drift import Drift
from workbench.probes.vocabulary import VocabularyPass

PROBES: dict[str, type[Probe]] = {
    "drift": Drift,
    "vocabulary": VocabularyPass,
}

__all__ = [
    "PROBES",
    "At",
    "Drift",
    "Measurement",
    "Probe",
    "StateProbe",
    "VocabularyPass",
]
