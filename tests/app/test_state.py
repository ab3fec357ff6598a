"""The address is the state: it goes there and back, and what cannot be is said, not obeyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.state import MOST_COMPARED, READ, SMALLEST_MARGIN, View, chosen, from_query, to_query

NAMES = st.text(min_size=1, max_size=40).filter(lambda s: s.isprintable())
SHARES = st.floats(0, 1)
VIEWS = st.builds(
    View,
    baseline=st.none() | NAMES,
    compare=st.none() | st.lists(NAMES, unique=True, max_size=5).map(tuple),
    attack=st.none() | NAMES,
    phi=SHARES,
    stability_margin=st.floats(SMALLEST_MARGIN, 1),
    utility_floor=SHARES,
    step=st.none() | st.integers(0, 10**8),
    prompt=st.none() | NAMES,
    theme=st.sampled_from(["light", "dark"]),
    options=st.dictionaries(st.from_regex(r"[a-z_]{1,9}\.[a-z_]{1,9}", fullmatch=True), NAMES).map(
        lambda d: tuple(sorted(d.items()))
    ),
)


@given(VIEWS)
def test_a_view_survives_its_address(view):
    assert from_query(to_query(view)) == (view, [])


@given(st.text(max_size=300))
def test_any_text_is_an_address(text):
    view, _ = from_query(text)
    assert from_query(to_query(view)) == (view, [])
    view.thresholds  # noqa: B018  (checks them)


def test_nothing_chosen_is_an_empty_address():
    assert to_query(View()) == ""
    assert from_query("") == (View(), [])


@pytest.mark.parametrize(
    "query, said",
    [
        ("phi=2", "between 0 and 1"),
        ("phi=nan", "between 0 and 1"),
        ("phi=", "between 0 and 1"),
        ("stability_margin=0", "between 0.001 and 1"),
        ("step=-1", "whole number"),
        ("step=1e3", "whole number"),
        ("theme=pink", "light, dark"),
    ],
)
def test_what_cannot_be_falls_back_and_is_said(query, said):
    view, notices = from_query(query)
    assert view == View()
    assert len(notices) == 1 and said in notices[0] and query.split("=")[0] in notices[0]


def test_what_is_not_ours_is_left_alone():
    assert from_query("token=abc&utm_source=x") == (View(), [])


def test_a_misspelt_arm_is_suggested_and_the_default_shown():
    view, notices = chosen(View(baseline="undefnded"), ["undefended", "vaccine"], ["sft"])
    assert view.baseline == "undefended" and view.compare == ("vaccine",)
    assert "Did you mean 'undefended'?" in notices[0]


def test_the_baseline_is_never_compared_with_itself():
    view, notices = chosen(View(baseline="b", compare=("a", "b", "a")), ["a", "b"], [])
    assert (view.compare, notices) == (("a",), [])


def test_nobody_compares_more_than_the_palette_tells_apart():
    arms = [f"arm{i}" for i in range(20)]
    view, notices = chosen(View(), arms, [])
    assert len(view.compare) == MOST_COMPARED and "19 arms do not fit" in notices[0]


def test_an_empty_store_shows_nothing():
    view, notices = chosen(View(), [], [])
    assert (view.baseline, view.compare, view.attack, notices) == (None, (), None, [])


def test_every_field_can_be_read():
    assert {*READ, "options"} == set(View.__dataclass_fields__)
