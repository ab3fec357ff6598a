"""Notebooks are paired, small, without outputs, and run from top to bottom."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_in_percent_format_and_small(path):
    text = path.read_text()
    assert "format_name: percent" in text
    assert len(text.splitlines()) <= 140
    functions = re.findall(r"^def .*\n((?:    .*\n)+)", text, re.MULTILINE)
    assert all(len(body.splitlines()) <= 8 for body in functions)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    made = tmp_path / "executed.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--execute", str(path), "-o"]
    done = subprocess.run([*command, str(made)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    text = made.read_text()
    assert "application/vnd.plotly.v1+json" in text
    assert "Warning" not in text
