"""The app never loads torch: a machine without it opens every page."""

import subprocess
import sys

from tests.app import stores

HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "nnsight", "transformer_lens")

SCRIPT = """
import sys
from app import create_app
from app.pages import PAGES
from app.reading import Reader
from app.session import Session
from app.router import left_out, stale
from app.runs_table import rows
import app.__main__, app.example
import workbench.figures.export

create_app(sys.argv[1], token="x")
reader = Reader(sys.argv[1])
session = Session.open(reader, "")
for page in PAGES.values():
    page.content(session)
    for figure in page.figures:
        frames = session.frames(figure.needs)
        figure.draw(frames, session.params(figure, frames))
left_out(session), stale(session), rows(session.listing)
print(sorted(set(sys.modules) & set(sys.argv[2:])))
"""


def test_no_page_loads_torch(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
