"""Which groups of text a panel has, for probes that read more than hazards and benign prompts."""

from collections.abc import Iterable

from workbench.errors import MissingStreamError
from workbench.panel import Panel
from workbench.rows import Group


def available(panel: Panel, wanted: Iterable[Group]) -> tuple[Group, ...]:
    """Those of the wanted groups that the panel's domain has texts for."""
    return tuple(group for group in wanted if _has(panel, group))


def _has(panel: Panel, group: Group) -> bool:
    try:
        return bool(panel.questions(group))
    except MissingStreamError:
        return False
