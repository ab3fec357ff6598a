"""A store is listed by headers alone, and what cannot be shown is named, never opened."""

import json
import time

import pytest

from app.reading import Reader
from app.router import left_out, stale
from app.runs_table import ago, rows
from app.session import Session
from tests.app import stores
from workbench import files
from workbench.figures import FIGURES
from workbench.headers import HEADER
from workbench.rows import Metric


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    return stores.troubled(tmp_path_factory.mktemp("troubled")).root


def test_every_folder_is_listed_with_its_state(troubled):
    lines = {line["id"]: line for line in rows(Reader(troubled).listing())}
    states = {run: line["state"].split(" ", 1)[1] for run, line in lines.items()}
    assert states["vaccine-s0"] == "finished"
    assert states["vaccine-s1"] == "failed" and "not finite" in lines["vaccine-s1"]["note"]
    assert states["vaccine-s2"] == "interrupted"
    assert states["garbage"] == "corrupt" and "cannot be read" in lines["garbage"]["note"]
    assert states["from-the-future"] == "newer schema"
    assert "schema 99" in lines["from-the-future"]["note"]
    chosen = {run for run, line in lines.items() if line["selectable"]}
    assert chosen == {"undefended-s0", "undefended-s0.sft", "vaccine-s0", "vaccine-s0.sft"}


def test_what_is_not_shown_is_named_beside_the_figures(troubled):
    session = Session.open(Reader(troubled), "")
    text = str(left_out(session))
    assert "vaccine-s1" in text and "vaccine-s2" in text and "from-the-future" not in text


def test_a_corrupt_table_leaves_the_other_runs(troubled):
    reader = Reader(troubled)
    session = Session.open(reader, "")
    frames = session.frames((Metric,))
    assert "vaccine-s0.sft" in frames.left_out
    assert set(frames[Metric]["run"]) >= {"undefended-s0", "undefended-s0.sft", "vaccine-s0"}


def test_runs_that_other_code_made_are_marked(troubled):
    session = Session.open(Reader(troubled), "")
    assert "made by other code" in str(stale(session))  # the invented code hash is nobody's


def test_frames_are_what_figures_load_by_themselves(tmp_path):
    from workbench.figures import load

    store = stores.full(tmp_path)
    session = Session.open(Reader(tmp_path), "")
    for figure in FIGURES.values():
        ours, theirs = session.frames(figure.needs), load(store, None, figure.needs)
        params = figure.given(None)
        mine, other = figure.data(ours, params), figure.data(theirs, params)
        assert mine.equals(other) and len(mine)


def test_an_unchanged_store_is_not_read_again(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    reader = Reader(tmp_path)
    session = Session.open(reader, "")
    assert reader.listing() is session.listing
    assert session.frames((Metric,)) is session.frames((Metric,))


def test_a_run_that_finishes_meanwhile_shows_up(tmp_path):
    store = stores.full(tmp_path, seeds=(0,))
    reader = Reader(tmp_path)
    before = len(reader.listing().shown)
    stores.add_attack(store, "vaccine", 5)
    after = reader.listing()
    assert len(after.shown) == before + 1


def test_a_header_that_changed_is_read_again(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    reader = Reader(tmp_path)
    assert "tar" not in reader.listing().arms
    path = tmp_path / "vaccine-s0" / HEADER
    files.write_json(path, json.loads(path.read_text()) | {"arm": "tar"})
    assert "tar" in reader.listing().arms


def test_what_cannot_be_read_renames_nothing(troubled):
    assert Reader(troubled).listing().arms == ["undefended", "vaccine"]


def test_links_and_odd_names_are_no_runs(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    n = len(Reader(tmp_path).listing().runs)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "with space").mkdir()
    (tmp_path / "file").touch()
    assert len(Reader(tmp_path).listing().runs) == n


def test_a_missing_store_is_an_empty_one(tmp_path):
    listing = Reader(tmp_path / "nowhere").listing()
    assert (listing.runs, listing.arms, listing.attacks) == ((), [], [])


@pytest.mark.slow
def test_a_thousand_runs_are_listed_within_a_second(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    source = json.loads((tmp_path / "vaccine-s0.sft" / HEADER).read_text())
    for i in range(1000):
        folder = tmp_path / f"vaccine-s{i + 10}.sft"
        folder.mkdir()
        (folder / HEADER).write_text(json.dumps(source | {"id": folder.name, "seed": i + 10}))
    started = time.monotonic()
    listing = Reader(tmp_path).listing()
    lines = rows(listing)
    assert len(lines) == 1006 and time.monotonic() - started < 3


@pytest.mark.parametrize(
    "seconds, said", [(None, "—"), (3, "now"), (150, "2 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages_have_one_unit(seconds, said):
    assert ago(seconds) == said
