"""`workbench figures`: what a user sees."""

import json

import pytest

from tests.figures.stores import store
from workbench.cli import main
from workbench.figures import FIGURES

EXPORT = ("figures", "export")


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/no/such/browser")


def said(capsys):
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_without_a_browser_the_exit_code_is_1_and_the_remedies_are_said_once(
    runs, tmp_path, capsys, no_browser
):
    code = main([*EXPORT, "all", "--store", str(runs.root), "-o", str(tmp_path)])
    told = said(capsys)
    assert code == 1 and told.count("apt-get install chromium") == 1
    for name in FIGURES:
        assert (tmp_path / f"{name}.figure.json").exists() and f"{name}.csv" in told


def test_with_a_browser_the_exit_code_is_0(runs, browser, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["workbench", "figures", "export", "four_pillars"])
    code = main([*EXPORT, "four_pillars", "--store", str(runs.root), "--venue", "acl", "--width",
                 "full", "--formats", "svg", "--runs", "tar-s0", "-o", str(tmp_path)])  # fmt: skip
    assert code == 0 and "four_pillars-acl-full.svg" in said(capsys)
    record = json.loads((tmp_path / "four_pillars.provenance.json").read_text())
    assert set(record["runs"]) == {"tar-s0", "tar-s0.sft"} and record["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack_budgt"], "no figure called 'attack_budgt'. Did you mean 'attack_budget'?"),
        (["attack_budget", "--venue", "icmll"], "no venue called 'icmll'. Did you mean 'icml'?"),
        (["attack_budget", "--set", "phy=1"], "Did you mean 'phi'?"),
        (["attack_budget", "--set", "phi"], "--set takes name=value"),
        (["attack_budget", "--set", "phi=7"], "phi is a share between 0 and 1, not 7.0."),
        (["all", "--set", "phy=1"], "Did you mean 'phi'?"),
        (["attack_budget", "--runs", "tar-s9"], "no run called 'tar-s9'. Did you mean 'tar-s"),
        (["attack_budget", "--set", "attack=lora"], "no attack 'lora' (there is: sft)"),
    ],
)
def test_mistakes_are_answered_in_one_line(runs, tmp_path, capsys, no_browser, arguments, message):
    code = main([*EXPORT, *arguments, "--store", str(runs.root), "-o", str(tmp_path / "out")])
    assert code == 2 and message in said(capsys)
    assert not (tmp_path / "out").exists()


def test_a_run_of_a_newer_workbench_is_named(tmp_path, capsys, no_browser):
    made = store(tmp_path / "runs", {"vaccine": 8}, (0, 1))
    file = made.folder("vaccine-s1.sft") / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}))
    where = ["--store", str(made.root), "-o", str(tmp_path)]
    main([*EXPORT, "attack_budget", *where])
    assert "not shown: vaccine-s1.sft: " in said(capsys)
    for name in ("attack_budget.provenance.json", "attack_budget.figure.json"):
        written = (tmp_path / name).read_text()
        assert "vaccine-s1.sft" in written and str(tmp_path) not in written
    code = main([*EXPORT, "attack_budget", "--runs", "vaccine-s1.sft", *where])
    assert code == 2 and "newer workbench (schema 99" in said(capsys)


def test_the_list_names_every_figure_and_parameter(capsys):
    assert main(["figures", "list"]) == 0
    told = said(capsys)
    for each in FIGURES.values():
        assert f"{each.name} {each.title}" in told
    assert "phi=0.5 Harmfulness above which" in told
