"""Whether a run was made by other code than is installed: found by hashing, not by importing."""

from functools import cache

from workbench import catalogue, provenance
from workbench.headers import RunHeader

DOMAINS = ("workbench.lab.domain", "workbench.file_domain")
"""Where a run's data can come from; the header does not say, so either will do."""


def other_code(run: RunHeader) -> tuple[str, str] | None:
    """The run's code and the one installed, if they differ; None if they agree or nobody knows."""
    made_by = run.hashes.get("code", "")
    method = run.attack if run.kind == "attack" else run.defence
    section = "attacks" if run.kind == "attack" else "defences"
    installed = _installed(section, None if method is None else str(method.get("name")))
    if not made_by or not installed or made_by in installed:
        return None
    return made_by[:8], installed[0][:8]


@cache
def _installed(section: str, name: str | None) -> tuple[str, ...]:
    """Hashes of the code that would make such a run today; none for an unknown method."""
    classes = {entry["name"]: entry["class"] for entry in catalogue.load()[section]}
    if name is not None and name not in classes:
        return ()
    own = [] if name is None else [classes[name].rpartition(".")[0]]
    return tuple(provenance.code_hash(*own, domain, "workbench.runs") for domain in DOMAINS)
