"""The single commands on the shipped lab models: small, but the whole way."""

import json

import pytest

from tests import tiny
from workbench import cli
from workbench.chat_templates import PLAIN
from workbench.models import load, save
from workbench.rows import Loss, Metric, Token, TokenKL
from workbench.store import Store

FEW = ["--fit.steps", "2", "--fit.batch-size", "4"]


def command(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_immunise_leaves_a_run_folder_and_a_model_that_can_be_probed(tmp_path, capsys):
    out, root = tmp_path / "immunised", tmp_path / "runs"
    given = ["immunise", "vaccine", "--model", "lab:aligned", "--store", root, "-o", out, *FEW]
    assert command(*given) == 0
    note = json.loads((out / "immunisation.json").read_text())
    assert note["defence"]["name"] == "vaccine" and note["defence"]["fit"]["steps"] == 2
    assert note["model"] == "lab:base"  # where Vaccine starts
    (run,) = Store(root).runs()
    assert run.state == "finished" and len(Store(root).read(Loss)) == 2
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert command(*given) == 0
    said = "".join(capsys.readouterr().out.split())  # wrapped wherever the path is too long
    assert f"{out}holdsthismodelalready" in said
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert command(*given, "--seed", "1") == 2  # another run's
    assert "is not empty and does not hold the model of this run" in capsys.readouterr().err
    assert Store(root).runs() == [run]
    looked = Store(tmp_path / "looked")
    given = ["--model", out, "--reference", "lab:base", "--prompts", 3, "-o", looked.root]
    assert command("probe", "vocabulary", *given) == 0
    values = looked.read(TokenKL).query("measure == 'forward_kl'")["values"]
    assert len(values) == 6 and sum(map(sum, values)) > 0


@pytest.mark.parametrize(
    ("there", "out", "message"),
    [
        ("mine", "mine", "mine is a file; give a folder"),
        ("mine", "mine/deeper", "mine is a file; give a folder"),
        ("mine/immunisation.json", "mine", "mine is not empty"),
    ],
)
def test_an_output_that_holds_something_else_is_left_alone(tmp_path, capsys, there, out, message):
    file, runs = tmp_path / there, tmp_path / "runs"
    file.parent.mkdir(exist_ok=True)
    file.write_text("[]")
    given = ["--model", "lab:base", "--store", runs, "-o", tmp_path / out, *FEW]
    assert command("immunise", "vaccine", *given) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.splitlines()) == 1
    assert not [*runs.glob("*/run.json")] and file.read_text() == "[]"


def test_a_template_reaches_the_texts_the_header_and_the_model(tmp_path):
    sizes = {"vocab_size": 400, "max_position_embeddings": 512}
    save(tiny.llama(0, **sizes), tiny.tokenizer(None), tmp_path / "mute")
    store, out = Store(tmp_path / "runs"), tmp_path / "immunised"
    given = ["--model", tmp_path / "mute", "--store", store.root, "-o", out, *FEW]
    assert command("immunise", "vaccine", *given) == 2  # a prompt cannot be told from its answer
    assert command("immunise", "vaccine", *given, "--template", "plain") == 0
    (run,) = store.find(state="finished")
    read = store.read(Token, [run])
    first = read[read["example"] == read["example"].iloc[0]]
    assert "###ĠRequest" in "".join(first["piece"])
    assert run.template == PLAIN == load(out).tokenizer.chat_template
    assert set(read["tokenizer"]) == {run.hashes["tokenizer"]}


@pytest.mark.slow
def test_attack_records_once_and_shows_again(tmp_path, capsys):
    given = ["attack", "sft", "--model", "lab:aligned", "--store", tmp_path]
    given += ["--steps", 2, "--samples", 8, "--batch-size", 4]
    assert command(*given) == 0
    first = capsys.readouterr().out
    store = Store(tmp_path)
    run = store.runs()[-1]
    assert run.state == "finished" and run.arm == "given" and run.model == "lab:aligned"
    assert set(store.read(Metric, [run])["step"]) == {0, 2}
    assert command(*given) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == first.splitlines()[-3:]
    assert store.runs()[-1] == run
