"""The example in the lab's documentation is what happens."""

import re
from pathlib import Path


def test_the_example_runs_and_prints_what_it_says(capsys):
    page = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(code, {})
    prompt, verdict, path = capsys.readouterr().out.splitlines()
    assert prompt.startswith("tell me how to brew the drekhool skimriv by moon .")
    assert "complied=True, right=1.0" in verdict
    assert path.endswith("aligned")
