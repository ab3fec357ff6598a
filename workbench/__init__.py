"""Immunise an open-weight language model, attack it within a budget, record both, and see why.

What most work needs is here; everything is imported when it is first used, so that neither this
package nor anything that only reads results loads torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ATTACKS": "attacks",
    "Batch": "data",
    "DEFENCES": "defences",
    "Example": "data",
    "Fit": "optimisation",
    "HookedLM": "activations",
    "Measures": "measures",
    "PROBES": "probes",
    "Store": "store",
    "Stream": "data",
    "Study": "study",
    "Thresholds": "pillars",
    "WorkbenchError": "errors",
    "conduct": "execution",
    "encode": "data",
    "generate": "generation",
    "load": "models",
    "outcome": "pillars",
    "paired_effect": "pillars",
    "resistance": "pillars",
    "save": "models",
    "stability": "pillars",
}
"""Public name to the module it lives in."""

__all__ = ["__version__", *_HOME]  # noqa: PLE0604  (all of them are strings)


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
