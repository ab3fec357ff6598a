"""The conditions of immunisation, as arithmetic on stored curves f(θ_t) and g(θ_t).

Rosati, Wehner, Williams, Bartoszcze, Sajjad & Rudzicz, EMNLP Findings 2024, arXiv:2402.16382.

A finite run shows that a model broke at a step or held to the end of the run; it never shows that a
model is strong. A threshold moved judges stored curves anew; nothing is measured twice.
"""

from workbench.pillars.breaking import Outcome, Resistance, Thresholds, outcome, resistance
from workbench.pillars.capability import LEVEL, Stability, stability
from workbench.pillars.seeds import PairedEffect, Summary, paired_effect, summarise

__all__ = [
    "LEVEL",
    "Outcome",
    "PairedEffect",
    "Resistance",
    "Stability",
    "Summary",
    "Thresholds",
    "outcome",
    "paired_effect",
    "resistance",
    "stability",
    "summarise",
]
