"""Controls of panels: what one offers is what the address carries and the figure reads back."""

import json
from dataclasses import fields
from urllib.parse import quote

import pytest

from app.__main__ import EXAMPLE
from app.pages import FIGURE_DEFAULTS
from app.panels import SHARED, card, not_taken
from app.reading import Reader
from app.session import Session
from workbench.errors import InvalidValueError
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
            assert not known or getattr(params, name) in (None, *known)
            assert figure.missing(frames, params) is None, choice


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_the_least_number_of_a_field_is_the_least_its_figure_takes(figure, session):
    for name, props in controls(figure, session).items():
        if "min" in props:
            figure.given({name: props["min"]})
            figure.given({name: ""})  # an emptied field
            with pytest.raises(InvalidValueError, match=name):
                figure.given({name: props["min"] - 1})


def test_one_bad_setting_leaves_the_others_of_its_panel(session):
    figure = FIGURES["token_movers"]
    asked = Session.open(session.reader, "?token_movers.tokens=0&token_movers.group=benign")
    params, refused = asked.params_and_refusals(figure, asked.frames_of(figure))
    assert (params.group, params.tokens) == ("benign", figure.params().tokens)
    assert len(refused) == 1 and "tokens must be at least 1, not 0" in refused[0]
    assert asked.notices == refused
    assert refused[0] in str(not_taken(refused)) and not_taken(()) is None


def test_a_prompt_that_a_figure_has_no_rows_of_becomes_its_first_and_that_is_said(session):
    figure, frames = FIGURES["cosine_map"], session.frames_of(FIGURES["cosine_map"])
    stored = figure.options(frames)["prompt"]
    for asked, shown, said in ((stored[1], stored[1], 0), ("another", stored[0], 1)):
        there = Session.open(session.reader, f"?prompt={quote(asked)}")
        params, refused = there.params_and_refusals(figure, frames)
        assert params.prompt == shown and len(refused) == said
        assert f"prompt {shown}" in figure.draw(frames, params).layout.meta["caption"]
    assert "'another'" in refused[0] and stored[0] in refused[0]
