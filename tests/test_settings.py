"""Settings are held to their types, in every method that is registered."""

import re
from copy import copy
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

import pytest

from workbench.attacks import ATTACKS
from workbench.defences import DEFENCES
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit
from workbench.settings import accepts, alternatives, check_values, hints_of, words

METHODS = {"fit": Fit, **DEFENCES, **ATTACKS}
NAN, INF = float("nan"), float("inf")


def wrong(annotation):
    """Values of about the right type that mean nothing."""
    for kind in alternatives(annotation):
        if get_origin(kind) is Literal:
            yield from ("no such choice", get_args(kind)[0].upper())
        elif kind is float:
            yield from (NAN, INF, -INF)
        elif get_origin(kind) is tuple:
            yield ()


CASES = [
    (name, field.name, value)
    for name, kind in METHODS.items()
    for field in fields(kind)
    for value in wrong(hints_of(kind)[field.name])
]


@pytest.mark.parametrize(("method", "field", "value"), CASES)
def test_every_method_refuses_what_its_types_exclude(method, field, value):
    # The type checker that tests run under would speak first, so we go round what it guards.
    settings = copy(METHODS[method]())
    object.__setattr__(settings, field, value)
    with pytest.raises(
        InvalidValueError, match=rf"^{field} must be .*, not {re.escape(repr(value))}\."
    ):
        settings.__post_init__()


def test_the_cases_are_those_that_went_unseen():
    assert {(method, field) for method, field, _ in CASES} >= {
        ("vaccine", "norm_scope"), ("vaccine", "rho"), ("vaccine", "layers"),
        ("t_vaccine", "freeze_policy"), ("rep_noise", "variant"), ("random_vaccine", "variance"),
        ("circuit_breakers", "retain_mask"), ("circuit_breakers", "distance"),
        ("circuit_breakers", "reference"), ("sft", "precision"), ("sft", "lora_alpha"),
        ("fit", "precision"), ("fit", "lr"),
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_accepted(method):
    METHODS[method]()


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0, 2.5], [True, NAN, INF, "1", None]),
        (bool, [True, False], [0, 1, "true"]),
        (str, ["", "x"], [1, None]),
        (float | None, [1.0, None], [NAN, "none"]),
        (Literal["a", "b"], ["a"], ["c", "A", None, 1]),
        (tuple[int, ...] | None, [(1,), [1, 2], None], [(), [], (1.5,), (True,), 1]),
        (Fit, [Fit()], [None, {}]),
    ],
)
def test_what_a_type_accepts(annotation, good, bad):
    assert all(accepts(annotation, value) for value in good)
    assert not any(accepts(annotation, value) for value in bad)


def test_the_message_says_what_was_expected_and_what_was_given():
    @dataclass
    class Some:
        shape: Literal["round", "square"] | None
        layers: tuple[int, ...] | None

    assert words(float | None) == "a number or none"
    with pytest.raises(
        InvalidValueError, match=r"^shape must be one of round, square or none, not"
    ):
        check_values(Some, {"shape": "rond"})
    with pytest.raises(InvalidValueError, match=r"^layers must be .*whole number.*none, not \(\)"):
        check_values(Some, {"layers": ()})
