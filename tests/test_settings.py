"""Settings are held to their types, in every method that is registered."""

import json
import re
from copy import copy
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from workbench.attacks import ATTACKS
from workbench.defences import DEFENCES
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit
from workbench.provenance import config_hash
from workbench.settings import accepts, alternatives, check, check_values, hints_of, words

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
        (int, [0, -3, np.int64(2), np.uint8(2)], [True, 1.0, "1", None, np.True_, np.float32(1)]),
        (
            float,
            [0, 2.5, np.int64(2), np.float32(2.5), np.float64(2.5), np.longdouble(2.5)],
            [True, NAN, INF, "1", None, np.True_, np.float32(NAN), np.float64(INF), 1j],
        ),
        (bool, [True, False, np.True_], [0, 1, "true", np.int64(1)]),
        (str, ["", "x"], [1, None]),
        (float | None, [1.0, None], [NAN, "none"]),
        (Literal["a", "b"], ["a"], ["c", "A", None, 1]),
        (
            tuple[int, ...] | None,
            [(1,), [1, 2], (np.int64(1),), None],
            [(), [], (1.5,), (True,), (np.True_,), 1, np.array([1, 2])],
        ),
        (Fit, [Fit()], [None, {}]),
    ],
)
def test_what_a_type_accepts(annotation, good, bad):
    assert all(accepts(annotation, value) for value in good)
    assert not any(accepts(annotation, value) for value in bad)


@dataclass(frozen=True)
class Numbers:
    """Outside the package, where no type checker speaks before `check` does."""

    n: int = 3
    x: float | None = 0.5
    on: bool = True
    layers: tuple[int, ...] = (0, 2)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize("given", [
    {"n": np.int64(3)}, {"n": np.uint8(3)}, {"x": np.float64(0.5)}, {"x": np.float32(0.5)},
    {"x": Fraction(1, 2)}, {"on": np.True_}, {"layers": (np.int32(0), np.int64(2))},
    {"layers": tuple(np.array([0, 2]))},
])  # fmt: skip
def test_numbers_of_numpy_are_pythons_from_the_door_on(given):
    made = Numbers(**given)
    assert made == Numbers() and hash(made) == hash(Numbers()) and repr(made) == repr(Numbers())
    assert json.dumps(asdict(made)) == json.dumps(asdict(Numbers()))
    assert config_hash(made) == config_hash(Numbers())


def test_numbers_stay_as_they_were_given():
    """A whole number where any may stand is not turned into a fraction: headers would change."""
    assert json.dumps(asdict(Numbers(x=1))["x"]) == json.dumps(asdict(Numbers(x=np.int64(1)))["x"])
    assert json.dumps(Numbers(x=1).x) == "1" and Numbers(x=np.float32(0.1)).x != 0.1
    assert type(Numbers(layers=[0, 2]).layers) is list


@pytest.mark.parametrize("method", METHODS)
def test_methods_hold_their_numbers_to_it_too(method):
    made = METHODS[method]()
    counted = {f.name for f in fields(made) if type(getattr(made, f.name)) in (int, float)}
    settings = copy(made)
    for name in counted:
        object.__setattr__(settings, name, np.asarray(getattr(made, name))[()])
    settings.__post_init__()
    assert json.dumps(asdict(settings)) == json.dumps(asdict(made))
    assert config_hash(settings) == config_hash(made)


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
