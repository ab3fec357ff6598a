"""Whether a run was made by other code than is installed: found by hashing, not by importing."""

from functools import cache

from workbench import provenance
from workbench.errors import UnknownNameError
from workbench.headers import RunHeader

GONE = "gone"
"""Stands for the hash of modules of which one is no longer there."""


def other_code(run: RunHeader) -> tuple[str, str] | None:
    """The run's code and the one installed, if they differ; None if they agree or nobody knows."""
    made_by = run.hashes.get("code", "")
    if not made_by or not run.modules:
        return None
    installed = _installed(tuple(run.modules))
    return None if installed == made_by else (made_by[:8], installed[:8])


@cache
def _installed(modules: tuple[str, ...]) -> str:
    """Hash of the code that would make such a run today."""
    try:
        return provenance.code_hash(*modules)
    except UnknownNameError:
        return GONE
