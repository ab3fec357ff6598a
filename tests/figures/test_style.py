"""The look of things: fixed for ever, readable on every ground, for every pair of eyes."""

from itertools import combinations

import numpy as np
import plotly.io as pio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UnknownNameError
from workbench.figures import DARK, LIGHT, paper
from workbench.figures._style import (
    METHODS,
    OUTCOMES,
    PETROFF,
    VARIANTS,
    arm_order,
    base_style,
)
from workbench.figures.colour import (
    COLOUR_BLIND,
    channels,
    contrast,
    distance,
    hexadecimal,
    over,
    readable,
)
from workbench.figures.config import GRAPH_CONFIG, make_renderers_private
from workbench.figures.venues import VENUES

GOLDEN = {
    "undefended": ("#656364", "solid", "x"),
    "vaccine": ("#1845fb", "solid", "circle"),
    "circuit_breakers": ("#ff5e02", "solid", "square"),
    "tar": ("#c91f16", "solid", "diamond"),
    "rep_noise": ("#c849a9", "solid", "triangle-up"),
    "booster": ("#86c8dd", "solid", "pentagon"),
    "lox": ("#adad7d", "solid", "hexagon"),
    "seam": ("#578dff", "solid", "star"),
}
"""Published figures use these: an entry is added when a method is, and never changes."""


def test_methods_keep_their_look_for_ever():
    assert METHODS == GOLDEN
    assert base_style("somebody_elses_method") == ("#86c8dd", "longdashdot", "hexagon")


def test_a_variant_has_its_methods_colour_and_a_look_of_its_own():
    for name, (colour, *look) in VARIANTS.items():
        family = METHODS[name.partition("_")[2]]
        assert colour == family[0] and tuple(look) != family[1:]
        assert base_style(name) == VARIANTS[name]
    assert len(set(VARIANTS.values())) == len(VARIANTS)


def test_the_table_has_no_two_methods_alike():
    assert len(set(METHODS.values())) == len(METHODS)
    assert len({colour for colour, _, _ in METHODS.values()}) == len(METHODS) == len(PETROFF)
    assert len({symbol for _, _, symbol in METHODS.values()}) == len(METHODS)


@given(st.text(max_size=30))
def test_any_method_has_a_look_that_is_not_the_undefendeds(method):
    look = base_style(method)
    assert look == base_style(method)
    assert method == "undefended" or look[0] != GOLDEN["undefended"][0]


@pytest.mark.parametrize("theme", [LIGHT, DARK, paper("icml")], ids=lambda theme: theme.name)
def test_controls_are_their_methods_dashed_open_and_fainter(theme):
    method, control = theme.series("vaccine"), theme.series("vaccine-control")
    assert control.opacity == (0.75 if theme is DARK else 0.5)
    assert theme is DARK or control.colour == method.colour
    assert control.dash == "dash" != method.dash and control.symbol == method.symbol + "-open"
    assert theme.series("vaccine rho=5").colour == method.colour
    assert theme.series("vaccine-control rho=5").dash == "dash"


@pytest.mark.parametrize("theme", [LIGHT, DARK, paper("icml")], ids=lambda theme: theme.name)
def test_everything_stands_out_from_its_ground(theme):
    assert contrast(theme.ink, theme.ground) >= 7
    assert contrast(theme.muted, theme.ground) >= 4.5
    for outcome in OUTCOMES:
        assert contrast(theme.outcome(outcome), theme.ground) >= 4.5
    for method in METHODS:
        look = theme.series(method)
        assert contrast(look.colour, theme.ground) >= 1.8
        assert contrast(look.edge, theme.ground) >= 3  # a pale marker has a dark edge


@pytest.mark.parametrize("sight", [None, *COLOUR_BLIND])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_no_two_methods_look_alike_to_anybody(theme, sight):
    looks = [theme.series(method).colour for method in METHODS]
    assert min(distance(a, b, sight) for a, b in combinations(looks, 2)) > 11


def test_petroffs_colours_are_as_far_apart_as_published():
    """Worst pairs measured for the design: 27.8 normal, 26.7 protan, 20.9 deutan, 18.0 tritan."""
    worst = {s: min(distance(a, b, s) for a, b in combinations(PETROFF, 2))
             for s in (None, *COLOUR_BLIND)}  # fmt: skip
    assert worst == pytest.approx(
        {None: 27.8, "protanopia": 26.7, "deuteranopia": 20.9, "tritanopia": 18.0}, abs=0.3
    )


def test_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from(["#ffffff", "#242424", "#808080"]))
def test_any_colour_can_be_made_readable(rgb, ground):
    colour = "#{:02x}{:02x}{:02x}".format(*rgb)
    assert hexadecimal(channels(colour)) == colour
    moved = readable(colour, ground)
    assert contrast(moved, ground) >= 3
    assert moved == colour or contrast(colour, ground) < 3


def test_legends_list_undefended_first_and_controls_after_their_methods():
    arms = [
        "zzz",
        "tar-control",
        "vaccine-control",
        "tar",
        "undefended",
        "vaccine rho=5",
        "vaccine",
    ]
    assert sorted(arms, key=arm_order) == [
        "undefended", "vaccine", "vaccine rho=5", "vaccine-control", "tar", "tar-control", "zzz",
    ]  # fmt: skip


@pytest.mark.parametrize("method", [*METHODS, *VARIANTS, "somebody_elses_method"])
def test_controls_can_be_seen_in_the_dark(method):
    look = DARK.series(f"{method}-control")
    assert contrast(over(look.colour, DARK.ground, look.opacity), DARK.ground) >= 3
    parts = [float(x) for x in look.edge.removeprefix("rgba(").removesuffix(")").split(",")]
    edge = hexadecimal(np.array(parts[:3]) / 255)
    assert contrast(over(edge, DARK.ground, parts[3]), DARK.ground) >= 3


@pytest.mark.parametrize("venue", VENUES)
def test_pages_are_as_wide_as_the_venue_says(venue):
    for width in ("column", "full"):
        assert paper(venue, width).width == pytest.approx(96 * getattr(VENUES[venue], width))
    assert paper(venue).label == pytest.approx(VENUES[venue].label * 96 / 72)


def test_unknown_venues_get_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"no venue called 'icmll'\. Did you mean 'icml'"):
        paper("icmll")
    with pytest.raises(UnknownNameError, match="no width called 'half'"):
        paper("icml", "half")


def test_notebooks_show_no_upload_button(monkeypatch):
    before = {name: pio.renderers[name].config for name in pio.renderers
              if hasattr(pio.renderers[name], "config")}  # fmt: skip
    try:
        make_renderers_private()
        assert before and all(pio.renderers[name].config == GRAPH_CONFIG for name in before)
    finally:
        for name, config in before.items():
            pio.renderers[name].config = config


def test_checkpoints_looked_at_in_two_ways_do_not_look_alike():
    one, other = (LIGHT.series(f"lab-aligned reference={x}") for x in ("lab:base", "lab:oracle"))
    assert one.colour == other.colour == LIGHT.series("lab-aligned").colour
    assert (one.dash, one.symbol) != (other.dash, other.symbol)
