"""Two checkpoints side by side: one report, the same numbers as the parts it is made of."""

import html
import io
import json
import re

import pytest
import torch
from rich.console import Console
from transformers import OPTConfig, OPTForCausalLM

from tests import tiny
from workbench import cli
from workbench.builtin import BuiltIn
from workbench.comparison import compare
from workbench.data import tokenizer_digest
from workbench.errors import (
    InvalidValueError,
    MissingStreamError,
    ModelError,
    SiteError,
    UnknownNameError,
)
from workbench.models import digest_of, save
from workbench.rows import KINDS, EmbeddingDrift, Prompt, TokenKL, WeightChange
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


def test_a_run_for_each_reference_holds_the_rows_of_all_parts(made, checkpoints):
    store, _ = made
    added, run = sorted(store.runs(), key=lambda x: "beside" not in x.probe)
    assert run.state == added.state == "finished" and run.probe["base"] == checkpoints["base"]
    assert added.arm == f"{run.arm}.from-base" and added.probe["reference"] == checkpoints["base"]
    assert added.hashes["reference"] == digest_of(checkpoints["base"])
    for kind in (TokenKL, EmbeddingDrift):
        assert len(store.read(kind, [run])) == len(store.read(kind)) > 0, kind
    changes = store.read(WeightChange, [run]).set_index(["part", "measure"])["value"]
    change = gram(checkpoints["aligned"], [checkpoints["attacked"]])
    assert changes["all", "norm"] == pytest.approx(change.norm(0))
    assert set(store.read(WeightChange, [run])["reference"]) == {checkpoints["aligned"]}
    weights = store.read(WeightChange, [added])
    assert set(weights["reference"]) == {checkpoints["base"]}
    weights = weights.set_index(["part", "measure"])["value"]
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
    for name in ("base", "aligned", "attacked"):
        assert checkpoints[name] in outside
    for told in (
        f"weights, norm, against {checkpoints['aligned']}<",
        f"weights, norm, against {checkpoints['base']}, beside {checkpoints['aligned']}<",
    ):
        assert told in outside
    assert f", against {checkpoints['base']}</h2>" in outside
    ids = re.findall(r'<div id="([^"]+)" class="plotly', text)
    assert len(ids) == len(set(ids)) and sum("weight_change" in x for x in ids) == 2
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
    assert (
        all(run.probe["left_out"] == {} for run in store.runs())
        and "Left out" not in report.read_text()
    )


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
    assert f"whole file, all {len(lines)}, " in report.read_text()
    return Store(tmp_path / "out")


@pytest.mark.filterwarnings("ignore:cosine gives no break point")
def test_one_file_is_read_whole(checkpoints, tmp_path):
    lines = [{"prompt": f"ask {i}", "response": f"word {i}"} for i in range(5)]
    rows = of_file(checkpoints, tmp_path, lines).read(TokenKL)
    assert set(rows["group"]) == {"hazard"} and rows["example"].nunique() == 5


def test_one_file_of_prompts_alone_leaves_out_what_reads_answers(checkpoints, tmp_path):
    store = of_file(checkpoints, tmp_path, [{"prompt": f"ask {i}"} for i in range(5)])
    assert set(store.runs()[0].probe["left_out"]) == {"vocabulary", "cosine"}
    assert store.read(EmbeddingDrift)["example"].nunique() == 5


def test_all_of_one_file_is_read_unless_prompts_says_how_many(checkpoints, tmp_path, capsys):
    lines = [{"prompt": f"ask {i}"} for i in range(40)]
    store = of_file(checkpoints, tmp_path, lines)
    assert store.read(EmbeddingDrift)["example"].nunique() == 40
    assert set(store.read(Prompt)["split"]) == {"whole"}  # not in any split: all were asked
    given = ["compare", checkpoints["aligned"], checkpoints["base"], "--prompts", "3"]
    given += ["--data", str(tmp_path / "mine.jsonl"), "-o", str(tmp_path / "few")]
    assert cli.main(given) == 0
    assert "prompts: the first 3 of 40 in the file" in " ".join(capsys.readouterr().out.split())
    assert "the first 3 of 40 in the file" in (tmp_path / "few/report.html").read_text()
    assert Store(tmp_path / "few").read(EmbeddingDrift)["example"].nunique() == 3


@pytest.mark.parametrize("wrong", [ModelError, SiteError, MissingStreamError, InvalidValueError])
def test_a_probe_that_does_not_suit_costs_its_own_rows(checkpoints, tmp_path, monkeypatch, wrong):
    def refuse(*given):
        raise wrong("it does not suit")

    monkeypatch.setattr("workbench.probes.drift.Drift.fit", refuse)
    given = [checkpoints["aligned"], checkpoints["base"], tmp_path / "out", QUIET]
    compare(*given, prompts=2)
    (run,) = Store(tmp_path / "out").runs()
    assert run.probe["left_out"] == {"drift": "it does not suit"}
    assert Store(tmp_path / "out").read(EmbeddingDrift).empty
    assert len(Store(tmp_path / "out").read(TokenKL))
    with pytest.raises(InvalidValueError, match=r"nothing was measured.*drift: it does not suit"):
        compare(*given, prompts=2, probes=("drift",))
    monkeypatch.setattr("workbench.probes.drift.Drift.fit", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare(*given, prompts=2)


def test_a_family_whose_head_reads_other_states_is_compared_by_the_rest(tmp_path):
    """OPT may project its last states before the head: no read-out, yet hidden states."""
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = OPTForCausalLM(OPTConfig(vocab_size=tiny.VOCABULARY, word_embed_proj_dim=16,
                                         max_position_embeddings=512, **sizes)).eval()  # fmt: skip
        save(model, tiny.tokenizer(), tmp_path / f"opt{seed}")
    given = [str(tmp_path / f"opt{seed}") for seed in (0, 1)]
    compare(*given, tmp_path / "out", QUIET, prompts=2)
    store = Store(tmp_path / "out")
    assert "vocabulary" in store.runs()[0].probe["left_out"]
    assert len(store.read(EmbeddingDrift)) and len(store.read(WeightChange))


def test_angles_to_a_base_of_another_size_are_left_out_by_name(checkpoints, tmp_path, capsys):
    save(tiny.llama(4, intermediate_size=96, **ROOM), tiny.tokenizer(), tmp_path / "other")
    given = ["compare", checkpoints["attacked"], checkpoints["aligned"], "--prompts", "2"]
    assert cli.main([*given, "--base", str(tmp_path / "other"), "-o", str(tmp_path / "out")]) == 0
    assert "left out: angles." in capsys.readouterr().out
    (run,) = Store(tmp_path / "out").runs()
    assert "same weights" in run.probe["left_out"]["angles"]
    assert set(Store(tmp_path / "out").read(WeightChange)["reference"]) == {checkpoints["aligned"]}
    with pytest.raises(UnknownNameError, match="no model called"):
        compare(checkpoints["attacked"], checkpoints["aligned"], tmp_path / "out", QUIET,
                base=str(tmp_path / "none"))  # fmt: skip


def test_of_several_templates_the_default_one_is_used_throughout(checkpoints, tmp_path):
    several = tiny.tokenizer()
    several.chat_template = {"default": tiny.CHAT_TEMPLATE, "tool_use": "{{ tools }}"}
    save(tiny.llama(4, **ROOM), several, tmp_path / "several")
    pairs = [(str(tmp_path / "several"), checkpoints["aligned"])]
    pairs += [pairs[0][::-1], (pairs[0][0], pairs[0][0])]
    for i, (one, other) in enumerate(pairs):
        compare(one, other, tmp_path / f"out{i}", QUIET, prompts=2)
        (run,) = Store(tmp_path / f"out{i}").runs()
        assert run.template == tiny.CHAT_TEMPLATE and run.probe["left_out"] == {}
        assert run.hashes["tokenizer"] == tokenizer_digest(tiny.tokenizer())


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        ([{"turns": ["ask a"]}, {"turns": ["ask b"]}], 2),  # SORRY-Bench
        ([{"messages": [{"role": "user", "content": "ask"}]}], 1),
        ([{"question": f"ask {i}", "answer": i} for i in range(3)], 3),  # WMDP
        ([{"prompt": "ask", "response": ""}, {"prompt": "ask more", "response": None}], 2),
        ([{"prompt": "ask", "text": "something else"}], 1),
    ],
)  # fmt: skip
def test_answers_that_are_no_text_are_none(checkpoints, tmp_path, lines, read):
    store = of_file(checkpoints, tmp_path, lines)
    assert set(store.runs()[0].probe["left_out"]) == {"vocabulary", "cosine"}
    assert store.read(EmbeddingDrift)["example"].nunique() == read
