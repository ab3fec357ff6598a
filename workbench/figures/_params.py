"""Parameters of figures: frozen dataclasses of plain values, checked however they were given."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from workbench.errors import InvalidValueError, UnknownNameError

P = TypeVar("P", bound="Params")
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Params:
    """What a reader may choose. Every value is checked against its type when it is made."""

    def __post_init__(self) -> None:
        _check(type(self), {f.name: getattr(self, f.name) for f in fields(self)})


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
    _check(kind, values)
    return kind(**values)


def _check(kind: type[Params], values: Mapping[str, Any]) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise InvalidValueError(f"{name} must be {_words(hints[name])}, not {value!r:.60}.")


def _read(value: Any, annotation: Any) -> Any:
    """A text as the value it stands for, a whole number as a number; the rest as it is."""
    kinds = _kinds(annotation)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    silent = value == "" and NoneType in kinds  # an address says nothing
    if not silent and (not isinstance(value, str) or _fits(value, annotation)):
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


def _kinds(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)


def _fits(value: object, annotation: Any) -> bool:
    for kind in _kinds(annotation):
        if get_origin(kind) is Literal:
            if isinstance(value, str) and value in get_args(kind):
                return True
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return isfinite(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True
    return False


def _words(annotation: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a name",
             NoneType: "none"}  # fmt: skip
    parts = [
        f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else words[kind]
        for kind in _kinds(annotation)
    ]
    return " or ".join(parts)
