"""Controls of panels: what one offers is what the address carries and the figure reads back."""

import json
from dataclasses import fields

import pytest

from app.__main__ import EXAMPLE
from app.pages import FIGURE_DEFAULTS
from app.panels import SHARED, card
from app.reading import Reader
from app.session import Session
from workbench.figures import FIGURES


@pytest.fixture(scope="module")
def session():
    return Session.open(Reader(EXAMPLE), "")


def controls(figure, session):
    """Parameter to its control, as a browser gets it."""
    found, left = (
        {},
        [json.loads(json.dumps(card(figure, session).to_plotly_json(), default=_plain))],
    )
    while left:
        props = left.pop()["props"]
        if isinstance(own := props.get("id"), dict) and own["type"] == "param":
            found[own["param"]] = props
        inside = props.get("children")
        left += [
            c for c in (inside if isinstance(inside, list) else [inside]) if isinstance(c, dict)
        ]
    return found


def _plain(component):
    return component.to_plotly_json()


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_a_panel_nobody_touched_leaves_the_address_as_it_is(figure, session):
    own = {f.name for f in fields(figure.params)} - SHARED
    plain = figure.params()
    for name, props in controls(figure, session).items():
        assert name in own
        assert str(props["value"]) == FIGURE_DEFAULTS[f"{figure.name}.{name}"], (name, plain)


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_what_a_panel_offers_is_read_back_and_draws(figure, session):
    frames = session.frames_of(figure)
    for name, props in controls(figure, session).items():
        known = figure.options(frames).get(name)
        for choice in props.get("data", ()):
            there = Session.open(session.reader, f"?{figure.name}.{name}={choice['value']}")
            assert there.notices == ()
            params = there.params(figure, frames)
            if known:
                assert getattr(params, name) in (None, *known)
                assert figure.missing(frames, params) is None
