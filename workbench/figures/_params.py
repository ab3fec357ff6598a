"""Parameters of figures: frozen dataclasses of plain values, checked however they were given."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar, get_type_hints

from workbench.errors import UnknownNameError
from workbench.settings import accepts, alternatives, check, check_values

P = TypeVar("P", bound="Params")
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Params:
    """What a reader may choose. Every value is checked against its type when it is made."""

    def __post_init__(self) -> None:
        check(self)


def make_params(kind: type[P], given: Mapping[str, Any], what: str = "parameter") -> P:
    """Parameters from values or from text, as a command line or a URL gives them.

    Raises:
        UnknownNameError: no such parameter; the message suggests the nearest.
        InvalidValueError: a value that the parameter cannot take.
    """
    hints = get_type_hints(kind)
    for name in given:
        if name not in hints:
            raise UnknownNameError(what, name, hints)
    values = {name: _read(value, hints[name]) for name, value in given.items()}
    check_values(kind, values)
    return kind(**values)


def _read(value: Any, annotation: Any) -> Any:
    """A text as the value it stands for, a whole number as a number; the rest as it is."""
    kinds = alternatives(annotation)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    silent = value == "" and NoneType in kinds  # an address says nothing
    if not silent and (not isinstance(value, str) or accepts(annotation, value)):
        return value
    for kind in sorted(kinds, key=lambda kind: kind is not NoneType):
        try:
            if kind is NoneType and value.lower() in ("", "none"):
                return None
            if kind is bool and value.lower() in WORDS:
                return WORDS[value.lower()]
            if kind in (int, float):
                return kind(value)
        except ValueError:
            continue
    return value
