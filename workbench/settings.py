"""Settings: frozen dataclasses of plain values, each checked against the type it declares.

Python checks no annotation. A misspelt choice would otherwise run another method without a word,
and a NaN would pass every comparison that it should fail.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from workbench.errors import InvalidValueError

hints_of = cache(get_type_hints)
"""The annotations of a class, by name."""


def check(settings: Any) -> None:
    """Hold every field of a dataclass to its type; to be called in `__post_init__`.

    Numbers of numpy become Python's, so that equal settings make equal headers and hashes.

    Raises:
        InvalidValueError: a choice that is none, a number that is not finite, an empty selection,
            or a value of another type.
    """
    given = {field.name: plain(getattr(settings, field.name)) for field in fields(settings)}
    check_values(type(settings), given)
    for name, value in given.items():
        object.__setattr__(settings, name, value)  # dataclasses of settings are frozen


def check_values(kind: type, values: Mapping[str, Any]) -> None:
    """Hold values to the types that a dataclass declares for them.

    Raises:
        InvalidValueError: the message names the first field that cannot hold its value.
    """
    hints = hints_of(kind)
    for name, value in values.items():
        if not accepts(hints[name], value):
            raise InvalidValueError(f"{name} must be {words(hints[name])}, not {value!r:.60}.")


def plain(value: Any) -> Any:
    """Numbers and truth values of numpy as Python's own; anything else as it is."""
    match value:
        case tuple():
            return tuple(map(plain, value))
        case list():
            return list(map(plain, value))
        case bool() | np.bool_():
            return bool(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
    return value


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a union is made of; a type that is none, alone."""
    union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if union else (annotation,)


def accepts(annotation: Any, value: object) -> bool:
    """Whether a value is of a type. A whole number is a number; a truth value is neither."""
    return any(_is(kind, value) for kind in alternatives(annotation))


def _is(kind: Any, value: object) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is tuple:  # JSON gives lists
        if not isinstance(value, tuple | list) or not value:
            return False
        return all(accepts(get_args(kind)[0], x) for x in value)
    value = plain(value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and isfinite(value)
    return isinstance(value, kind)


def words(annotation: Any) -> str:
    """A type as it is said to a reader: `a number or none`."""
    return " or ".join(_word(kind) for kind in alternatives(annotation))


def _word(kind: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a name",
             NoneType: "none"}  # fmt: skip
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(inside)}"
    if origin is tuple:
        return f"a tuple of one or more, each {words(inside[0])},"
    return names.get(kind) or f"a {kind.__name__}"
