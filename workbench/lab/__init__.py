"""The embedded lab model: an invented world, models small enough to train in minutes, exact judges.

World, texts, verifier and checkpoint names need no torch; streams import it on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.lab.checkpoints import checkpoint_path, world_of
from workbench.lab.verifier import correct, verify
from workbench.lab.world import Request, World
from workbench.verdicts import Verdict

if TYPE_CHECKING:
    from workbench.lab.streams import Evaluation, evaluation, examples

__all__ = [
    "Evaluation",
    "Request",
    "Verdict",
    "World",
    "checkpoint_path",
    "correct",
    "evaluation",
    "examples",
    "verify",
    "world_of",
]

_LAZY = {"Evaluation": "streams", "evaluation": "streams", "examples": "streams"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
