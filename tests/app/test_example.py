"""The shipped example: real rows, small, readable by every page."""

import pytest

from app.__main__ import EXAMPLE
from app.example import LIMIT, WHOLE, make
from app.reading import Reader
from app.session import Session
from tests.app import stores
from workbench.errors import InvalidValueError
from workbench.figures import FIGURES


def test_the_example_is_small_and_holds_no_weights():
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) < LIMIT
    assert {file.suffix for file in files} == {".json", ".parquet"}


def test_every_figure_draws_it():
    session = Session.open(Reader(EXAMPLE), "")
    assert session.notices == () and len(session.arms) >= 3
    for figure in FIGURES.values():
        frames = session.frames_of(figure)
        assert not frames.left_out
        assert figure.missing(frames, session.params(figure, frames)) is None


def test_it_is_made_from_a_store_and_keeps_rows_as_they_are(tmp_path):
    stores.full(tmp_path / "store", seeds=(0, 1))
    size = make(tmp_path / "store", tmp_path / "example", prompts=1)
    assert 0 < size < LIMIT
    whole, part = Reader(tmp_path / "store"), Reader(tmp_path / "example")
    for figure in (f for f in FIGURES.values() if set(f.needs) <= set(WHOLE)):
        tables = []
        for reader in (whole, part):
            session = Session.open(reader, "")
            frames = session.frames_of(figure)
            tables.append(figure.data(frames, session.params(figure, frames)))
        assert tables[0].equals(tables[1])


def test_nothing_finished_gives_no_example(tmp_path):
    with pytest.raises(InvalidValueError, match="no finished run"):
        make(tmp_path, tmp_path / "example", prompts=1)
    assert not (tmp_path / "example").exists()
