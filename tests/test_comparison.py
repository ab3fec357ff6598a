"""Two checkpoints side by side: one report, the same numbers as the parts it is made of."""

import html
import io
import json
import re

import pytest
import torch
from rich.console import Console

from tests import tiny
from workbench import cli
from workbench.builtin import BuiltIn
from workbench.comparison import compare
from workbench.errors import InvalidValueError, MissingStreamError, ModelError
from workbench.models import save
from workbench.rows import KINDS, EmbeddingDrift, TokenKL, WeightChange
from workbench.store import Store
from workbench.task_vectors import gram

QUIET = Console(quiet=True)
ROOM = {"max_position_embeddings": 512}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three tiny models of one architecture; the first has no template, as base models do."""
    root = tmp_path_factory.mktemp("checkpoints")
    for i, name in enumerate(("base", "aligned", "attacked")):
        template = {} if i else {"chat_template": None}
        save(tiny.llama(i, **ROOM), tiny.tokenizer(**template), root / name)
    return {name: str(root / name) for name in ("base", "aligned", "attacked")}


@pytest.fixture(scope="module")
def made(checkpoints, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    report = compare(checkpoints["attacked"], checkpoints["aligned"], out, QUIET,
                     base=checkpoints["base"], prompts=3)  # fmt: skip
    return Store(out), report


def test_one_run_holds_the_rows_of_all_parts(made, checkpoints):
    store, _ = made
    (run,) = store.runs()
    assert run.state == "finished" and run.probe["base"] == checkpoints["base"]
    for kind in (TokenKL, EmbeddingDrift):
        assert len(store.read(kind)), kind
    weights = store.read(WeightChange).set_index(["part", "measure"])["value"]
    files = gram(checkpoints["base"], [checkpoints["attacked"], checkpoints["aligned"]])
    assert weights["all", "angle"] == pytest.approx(files.angle(0, 1))
    assert weights["all", "kept"] == pytest.approx(files.kept(1, 0))  # of the reference's change
    assert weights["head", "norm"] == pytest.approx(files.norm(0, "head"))
    assert sum(len(store.read(kind)) for kind in KINDS.values()) > 100


def test_the_report_stands_alone(made, checkpoints):
    _, report = made
    text = report.read_text()
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", outside)
    assert text.count("window.PlotlyConfig") >= 1 and "angle" in outside
    for name in ("aligned", "attacked"):
        assert checkpoints[name] in outside
    assert "What it does not show" in outside and outside.count("<h2>") >= 4


def test_without_a_third_checkpoint_weights_are_measured_from_the_reference(checkpoints, tmp_path):
    code = cli.main(["compare", checkpoints["aligned"], checkpoints["base"], "-o", str(tmp_path),
                     "--prompts", "2"])  # fmt: skip
    assert code == 0 and (tmp_path / "report.html").is_file()
    weights = Store(tmp_path).read(WeightChange)
    assert set(weights["reference"]) == {checkpoints["base"]} and set(weights["beside"]) == {""}


def test_checkpoints_that_do_not_go_together_are_refused_before_anything_is_measured(
    checkpoints, tmp_path
):
    other = tiny.tokenizer()
    other.add_tokens(["quagga"])
    save(tiny.llama(3, vocab_size=400, **ROOM), other, tmp_path / "other")
    given = [checkpoints["aligned"], str(tmp_path / "other"), tmp_path / "out", QUIET]
    with pytest.raises(InvalidValueError, match="'quagga'"):
        compare(*given)
    broken = tiny.llama(5, **ROOM)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    save(broken, tiny.tokenizer(), tmp_path / "broken")
    with pytest.raises(ModelError, match="not finite"):
        compare(checkpoints["aligned"], str(tmp_path / "broken"), tmp_path / "out", QUIET,
                prompts=2)  # fmt: skip
    assert not (tmp_path / "out").exists()


STATES = {"drift", "similarity", "cosine"}


@pytest.mark.parametrize(
    ("size", "left_out"),
    [({"intermediate_size": 96}, {"weights"}), ({"hidden_size": 64}, {"weights", *STATES}),
     ({"num_hidden_layers": 3}, {"weights", *STATES})],
)  # fmt: skip
def test_of_checkpoints_of_other_sizes_what_can_be_compared_is(
    checkpoints, tmp_path, size, left_out
):
    save(tiny.llama(4, **size, **ROOM), tiny.tokenizer(), tmp_path / "other")
    given = [checkpoints["aligned"], str(tmp_path / "other"), tmp_path / "out"]
    console = Console(record=True, width=400, file=io.StringIO())
    report = compare(*given, console, prompts=2).read_text()
    (run,) = Store(tmp_path / "out").runs()
    assert set(run.probe["left_out"]) == left_out
    said = console.export_text()
    for name, why in run.probe["left_out"].items():
        assert f"left out: {name}. {why}" in said
        assert f"<b>{name}</b>: {html.escape(why)}" in report
    assert "same weights" in run.probe["left_out"]["weights"]
    store = Store(tmp_path / "out")
    assert len(store.read(TokenKL)) and store.read(WeightChange).empty
    assert store.read(EmbeddingDrift).empty == ("drift" in left_out)
    with pytest.raises(
        InvalidValueError, match=r"none of weights gave a row\. weights: .*same wei"
    ):
        compare(*given, QUIET, prompts=2, probes=("weights",))


def test_where_everything_can_be_compared_nothing_is_left_out(made):
    store, report = made
    assert store.runs()[0].probe["left_out"] == {} and "Left out" not in report.read_text()


def test_the_built_in_prompts_are_for_looking_only():
    domain = BuiltIn()
    hazards, refused, framed = (domain.texts("test", g) for g in ("hazard", "refused", "framed"))
    assert len(hazards) == len(refused) == len(framed) == len(domain.texts("val", "benign")) == 24
    for h, r, f in zip(hazards, refused, framed, strict=True):
        assert domain.judge(h, h.answer).success and domain.judge(h, r.answer).refused
        assert h.prompt in f.prompt and h.prompt == r.prompt
    with pytest.raises(MissingStreamError, match="not for training"):
        domain.examples("harmful", split="test", n=1, seed=0)


def of_file(checkpoints, tmp_path, lines):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = compare(checkpoints["aligned"], checkpoints["base"], tmp_path / "out", QUIET,
                     data=str(tmp_path / "mine.jsonl"))  # fmt: skip
    assert "whole file" in report.read_text()
    return Store(tmp_path / "out")


def test_one_file_is_read_whole(checkpoints, tmp_path):
    lines = [{"prompt": f"ask {i}", "response": f"word {i}"} for i in range(5)]
    rows = of_file(checkpoints, tmp_path, lines).read(TokenKL)
    assert set(rows["group"]) == {"hazard"} and rows["example"].nunique() == 5


def test_one_file_of_prompts_alone_leaves_out_what_reads_answers(checkpoints, tmp_path):
    store = of_file(checkpoints, tmp_path, [{"prompt": f"ask {i}"} for i in range(5)])
    assert set(store.runs()[0].probe["left_out"]) == {"vocabulary", "cosine"}
    assert store.read(EmbeddingDrift)["example"].nunique() == 5
