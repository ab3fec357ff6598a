"""Files for a paper: fonts, sizes, labels, data and provenance, the same bytes every time."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from tests.figures.stores import store
from workbench.errors import InvalidValueError, RunError, UnknownNameError
from workbench.figures import FIGURES, Browser, Frames, export, export_all, paper
from workbench.figures.browser import BrowserError, browser_path
from workbench.figures.export import FORMATS, origin, picture
from workbench.figures.stamps import read_provenance, stamp, with_stable_ids

names = pytest.mark.parametrize("name", FIGURES)
poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="no poppler (apt-get install poppler-utils)"
)


@pytest.fixture(scope="module")
def folder(frames, browser, tmp_path_factory):
    """Every figure for ICML's column, in all formats."""
    made = tmp_path_factory.mktemp("figures")
    for each in FIGURES.values():
        done = export(each, frames, made, paper("icml"), browser, command="workbench figures")
        assert done.problem is None and len(done.files) == 4 + len(FORMATS)
    return made


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def other_browser(browser):
    with Browser() as running:
        yield running


@names
def test_all_files_are_there(folder, name):
    assert {p.name.removeprefix(name) for p in folder.glob(f"{name}[.-]*")} == {
        "-icml-column.pdf", "-icml-column.svg", "-icml-column.png", ".parquet", ".csv",
        ".figure.json", ".provenance.json",
    }  # fmt: skip


@names
@poppler
def test_fonts_are_embedded_truetype(folder, name):
    lines = tool("pdffonts", str(folder / f"{name}-icml-column.pdf")).splitlines()[2:]
    assert lines
    for line in lines:
        assert "TrueType" in line and "Type 3" not in line
        embedded, subset = re.search(r"Identity-H\s+(yes|no)\s+(yes|no)", line).groups()
        assert (embedded, subset) == ("yes", "yes")


@names
@poppler
def test_the_page_is_the_venues_column_wide(folder, name):
    told = tool("pdfinfo", str(folder / f"{name}-icml-column.pdf"))
    across = float(re.search(r"Page size:\s+([\d.]+) x", told)[1])
    assert across == pytest.approx(3.25 * 72, abs=0.5)
    with Image.open(folder / f"{name}-icml-column.png") as image:
        assert image.width == pytest.approx(3.25 * 300, abs=2)


def said(figure):
    """Words of titles, annotations and legend, without their markup."""
    plain = json.loads(figure.to_json())["layout"]
    shown = [a["text"] for a in plain.get("annotations", ())]
    axes = [v for k, v in plain.items() if k.startswith(("xaxis", "yaxis", "coloraxis"))]
    shown += [a.get("title", {}).get("text", "") for a in axes if a.get("visible", True)]
    shown += [a["colorbar"]["title"]["text"] for a in axes if "colorbar" in a]
    shown += [t.name for t in figure.data if t.showlegend and t.name]
    return {word for text in shown for word in re.sub(r"<[^>]+>", " ", text or "").split()}


@names
@poppler
@pytest.mark.parametrize("venue", ["acl", "neurips"])
def test_no_label_is_clipped(frames, browser, tmp_path, name, venue):
    """Words that are cut off vanish from a PDF's text layer."""
    theme = paper(venue)
    drawn = FIGURES[name].draw(frames, None, theme)
    file = tmp_path / "figure.pdf"
    file.write_bytes(
        browser.picture(drawn, "pdf", theme.width, theme.width * drawn.layout.meta["aspect"])
    )
    found = tool("pdftotext", "-layout", str(file), "-")
    upright = tool("pdftotext", "-raw", str(file), "-")
    missing = {word for word in said(drawn) if word not in found and word not in upright}
    assert len(said(drawn)) > 4 and not missing


@names
def test_the_table_beside_is_the_table_that_was_drawn(folder, frames, name):
    each = FIGURES[name]
    table = each.data(frames, each.given(None))
    stored = pd.read_parquet(folder / f"{name}.parquet")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert len(pd.read_csv(folder / f"{name}.csv")) == len(table)
    redrawn = each.draw_table(stored.astype(table.dtypes), frames, each.given(None), paper("icml"))
    kept = go.Figure(json.loads((folder / f"{name}.figure.json").read_text()))
    assert json.loads(with_stable_ids(redrawn).to_json()) == json.loads(kept.to_json())


@names
@pytest.mark.parametrize("form", FORMATS)
def test_pictures_say_where_they_come_from(folder, runs, name, form):
    inside = read_provenance(folder / f"{name}-icml-column.{form}")
    beside = json.loads((folder / f"{name}.provenance.json").read_text())
    assert inside["figure"] == name and inside["theme"] == "icml-column"
    assert set(inside["runs"]) == {run.id for run in runs.runs()}
    assert inside["runs"]["tar-s0"]["hashes"] == {"data": "d", "code": "c"}
    assert inside["versions"]["plotly"] and "Chrom" in inside["browser"]
    assert {k: beside[k] for k in inside} == inside
    assert beside["command"] == "workbench figures" and beside["time"]
    assert str(folder) not in json.dumps(inside) and str(runs.root) not in json.dumps(inside)


@pytest.mark.parametrize("name", ["attack_budget", "drift_by_layer"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_same_picture_is_the_same_bytes(folder, frames, other_browser, name, form):
    """On one machine with one kind of browser; drawn again by another process of it."""
    each, theme = FIGURES[name], paper("icml")
    drawn = each.draw(frames, None, theme)
    again = picture(drawn, form, origin(each, frames, each.given(None), theme), other_browser)
    first = (folder / f"{name}-icml-column.{form}").read_bytes()
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(first).hexdigest()


def test_svgs_are_valid_and_ask_for_nothing_from_outside(folder):
    for name in FIGURES:
        drawn = (folder / f"{name}-icml-column.svg").read_text()
        assert drawn.startswith("<svg") and "defs-000000" in drawn
        assert not re.findall(r"(?:href|src)=[\"']https?:", drawn)


def test_files_that_are_not_ours_bear_no_provenance(tmp_path):
    for name in ("a.pdf", "a.svg", "a.png", "a.txt"):
        (tmp_path / name).write_bytes(b"something")
        with pytest.raises(InvalidValueError, match="bears no provenance"):
            read_provenance(tmp_path / name)


def test_without_a_browser_the_rest_is_written_and_the_remedies_named(
    frames, tmp_path, monkeypatch
):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    done = export(FIGURES["attack_budget"], frames, tmp_path, paper("icml"), Browser())
    assert {file.suffix for file in done.files} == {".parquet", ".csv", ".json"}
    for remedy in ("BROWSER_PATH", "apt-get install chromium", "on a machine that has one"):
        assert remedy in done.problem


def test_a_browser_that_cannot_start_is_reported_and_nothing_hangs(frames, tmp_path, monkeypatch):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    with pytest.raises(BrowserError, match="the browser did not draw"), Browser() as running:
        running.picture(go.Figure(), "png", 100.0, 100.0)


def test_a_browser_stops_when_idle_and_starts_again(browser):
    with Browser(idle=0.2) as running:
        assert running.picture(go.Figure(), "svg", 100.0, 100.0)
        while running.running:
            pass
        assert running.picture(go.Figure(), "svg", 100.0, 100.0)


def test_no_rows_no_export_but_the_command_that_writes_them(tmp_path):
    with pytest.raises(RunError, match=r"cannot be drawn.*Written by: workbench study --store"):
        export(FIGURES["kl_by_position"], Frames(), tmp_path, paper("icml"), Browser())
    assert not list(tmp_path.iterdir())


def test_export_all_draws_what_there_are_rows_for(tmp_path, browser):
    from workbench.rows import Cost, Metric

    poor = store(tmp_path / "runs", {"vaccine": 8}, (0,), kinds=(Metric, Cost))
    done = export_all(poor, None, tmp_path / "out", venue="acl", formats=("pdf",), phi=0.4)
    assert {each.figure for each in done if each.problem is None} == {
        "four_pillars",
        "attack_budget",
    }
    assert (tmp_path / "out" / "attack_budget-acl-column.pdf").exists()
    assert "no rows of: token_kl" in next(x.problem for x in done if x.figure == "kl_by_position")
    record = json.loads((tmp_path / "out" / "attack_budget.provenance.json").read_text())
    assert record["params"]["phi"] == 0.4
    with pytest.raises(UnknownNameError, match="Did you mean 'phi'"):
        export_all(poor, None, tmp_path, phj=1)


def test_pictures_need_no_torch(runs, tmp_path):
    code = (
        "import sys; from workbench.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    arguments = ["figures", "export", "four_pillars", "--store", str(runs.root), "--venue", "icml",
                 "--formats", "svg", "-o", str(tmp_path)]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == (1 if browser_path() is None else 0), done.stderr


@pytest.mark.slow
def test_twenty_figures_in_a_row(frames, browser, tmp_path):
    """Batch export reuses one browser: 0.75 s a figure at most."""
    import time

    begun = time.monotonic()
    for number in range(20):
        each = list(FIGURES.values())[number % len(FIGURES)]
        export(each, frames, tmp_path / str(number), paper("icml"), browser, formats=("pdf",))
    assert time.monotonic() - begun < 15 * 4  # a busy machine has its moments


def test_stamps_keep_any_text(tmp_path):
    drawn = b'<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>'
    told = {"arm": "<b>&\"'</b> φ ]]>"}
    (tmp_path / "x.svg").write_bytes(stamp(drawn, "svg", told))
    assert read_provenance(tmp_path / "x.svg") == told
