"""What rows share: the kind of a table, the version of its columns, and who may be in a column."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_origin

Stage = Literal["defence", "attack"]
Group = Literal["hazard", "benign", "refused", "framed"]
"""Hazardous requests with compliant answers, benign ones with right answers, hazardous ones
refused, and hazardous ones in a frame that hides what is asked (a story, a test)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all rows share: a kind (the table's name) and the version of its columns."""

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 1


def columns(row: type[Row]) -> dict[str, object]:
    """The columns of a kind of row, name to type."""
    return {f.name: f.type for f in fields(row)}


def is_list(annotation: object) -> bool:
    """Whether a column holds a list over the row's axis."""
    return get_origin(annotation) is list
