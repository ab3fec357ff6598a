"""Every error the workbench raises on purpose.

    WorkbenchError
    ├── UnknownNameError     a defence, attack, probe, site, stream or model that does not exist
    ├── InvalidValueError    a value out of range, or two values that do not go together
    ├── MissingStreamError   a method asks for data nobody gave
    ├── ModelError           a directory or object that is not a usable chat model
    ├── SiteError            an activation site that this model lacks, or that never fired
    ├── TrainingError        training cannot go on (a loss or gradient that is not finite)
    ├── RunError             a run folder that is corrupt, half written or from a newer version
    ├── StoreBusyError       somebody else is writing to this store
    └── RecordingError       a recording that is corrupt or does not hold what was asked for

The message says what was given, what was expected and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WorkbenchError(Exception):
    """Catch this to catch every error the workbench raises on purpose."""


class WorkbenchWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


class UnknownNameError(WorkbenchError, LookupError):
    """A name that is not registered; the message suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = get_close_matches(name, self.known, n=1)
        parts = [f"no {kind} called {name!r}."]
        if close:
            parts.append(f"Did you mean {close[0]!r}?")
        parts.append(f"Known: {', '.join(self.known) or 'none'}.")
        super().__init__(" ".join([*parts, hint]).strip())


class InvalidValueError(WorkbenchError, ValueError):
    """A value out of its range, or two values that do not go together."""


class MissingStreamError(WorkbenchError):
    """A method declares a data stream that was not given."""


class ModelError(WorkbenchError):
    """What was given as a model cannot be used as one."""


class SiteError(WorkbenchError):
    """An activation site that this model does not have, or that never fired."""


class TrainingError(WorkbenchError):
    """Training stopped because going on would be meaningless."""


class RunError(WorkbenchError):
    """A run folder that cannot be read: corrupt, half written, or written by a newer version."""


class StoreBusyError(WorkbenchError):
    """Another process is writing to this store."""


class RecordingError(WorkbenchError):
    """A recording that is corrupt, or does not hold what was asked for."""
