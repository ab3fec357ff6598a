"""Sentences say what the stored curves say, and move with the thresholds."""

import re
from base64 import b64decode

import pytest

from app.pages.overview import FIGURE
from app.reading import Reader
from app.session import Session
from app.sparkline import HEIGHT, WIDTH, polylines, sparkline
from app.verdicts import cells, control_of, sentence
from tests.app import stores
from workbench.figures import FIGURES


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    store = stores.full(root, arms=("undefended", "vaccine", "vaccine-control", "tar"))
    stores.full(store.root, seeds=(3,), arms=("vaccine",))
    return Reader(root)


def said(reader, query=""):
    session = Session.open(reader, query)
    frames = session.frames(FIGURE.needs)
    by_arm = cells(FIGURE.data(frames, session.params(FIGURE, frames)))
    return {arm: sentence(arm, by_arm) for arm in session.arms}


def test_a_sentence_names_interval_control_capability_and_seeds(reader):
    text = said(reader)["vaccine"]
    assert "broken between steps" in text and "its control: broken" in text
    assert "capability against its control" in text and "±2 pt" in text
    assert "generalisation and trainability not measured" in text and "4 seeds" in text


def test_a_finite_run_held_to_its_end_and_is_never_strong(reader):
    text = said(reader)["tar"]
    assert text.startswith("held") and "64" in text and "strong" not in text


def test_thresholds_judge_the_same_rows_anew(reader):
    assert "broken" in said(reader, "phi=0.5")["vaccine"]
    assert said(reader, "phi=1")["vaccine"].startswith("held")
    assert "useless" in said(reader, "utility_floor=1")["undefended"]
    assert "±5 pt" in said(reader, "stability_margin=0.05")["vaccine"]


@pytest.mark.parametrize(
    "arm, control",
    [("vaccine", "vaccine-control"), ("vaccine rho=5.0", "vaccine-control rho=5.0"),
     ("vaccine-control", None), ("undefended", None)],
)  # fmt: skip
def test_who_is_whose_control(arm, control):
    assert control_of(arm) == control


def test_a_sparkline_stays_in_its_frame(reader):
    session = Session.open(reader, "")
    figure = FIGURES["attack_budget"]
    frames = session.frames(figure.needs)
    runs = figure.data(frames, figure.given(None))
    svg = b64decode(sparkline(polylines(runs), 0.5, "#123456", "#654321").split(",")[1]).decode()
    points = re.findall(r"([\d.]+),([\d.]+)", svg)
    assert len(points) == len(runs)
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)
    assert svg.count("polyline") == runs["run"].nunique()
