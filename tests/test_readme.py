"""The README's promises: its example runs, its commands exist, its table is the catalogue's."""

import re
from dataclasses import replace
from pathlib import Path

import workbench
from tests import small
from workbench import catalogue
from workbench.commands import methods

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch):
    """As it is printed, but for the size of the study."""
    example = re.search(r"tests/test_readme.py -->\n```python\n(.*?)```", README, re.S)[1]
    assert sum(bool(line.strip()) for line in example.splitlines()) == 5
    real, seen = workbench.conduct, []

    def conduct(study, store):
        seen.append(study)
        return real(replace(small.study(), defences={}), store, jobs=1)

    monkeypatch.setattr("workbench.execution.conduct", conduct)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(example, scope)
    assert seen[0].defences["vaccine"].rho == 5.0 and seen[0].attacks["sft"].lr == 3e-4
    assert scope["outcome"].runs and Path("runs/mine").is_dir()


def test_the_example_of_activations_runs(capsys):
    example = re.search(r"<!-- activations: .*?-->\n```python\n(.*?)```", README, re.S)[1]
    scope: dict = {}
    exec(example, scope)
    batch, acts = scope["batch"], scope["acts"]
    assert acts["blocks.3.hook_resid_post"].shape[:2] == batch.input_ids.shape
    assert "torch.Size" in capsys.readouterr().out
    tokens = scope["loaded"].tokenizer(["what do i need ?"], return_tensors="pt")
    assert scope["lm"](tokens).logits.shape[:2] == tokens["input_ids"].shape


def test_every_method_is_in_the_table_with_its_paper():
    found = catalogue.load()
    for section in ("defences", "attacks", "probes"):
        for entry in found[section]:
            assert f"| `{entry['name']}` |" in README
            assert entry["paper"]["arxiv"] in README


def test_the_commands_it_shows_exist():
    block = re.search(r"## On the command line\n\n```\n(.*?)```", README, re.S)[1]
    commands = [line.split("#")[0].split()[1:3] for line in block.strip().splitlines()]
    known = {name: {e["name"] for e in catalogue.load()[section]}
             for name, (section, _) in methods.GROUPS.items()}  # fmt: skip
    for command, *rest in commands:
        if command in known:
            assert rest[0] in known[command]
        else:
            assert command in (
                "list", "study", "results", "doctor", "demo", "lab", "figures", "compare", "record",
            )  # fmt: skip
