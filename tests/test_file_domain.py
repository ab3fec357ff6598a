"""A folder of one's own data: splits, streams, questions, and a whole study on a local model."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small, tiny
from workbench.data import Example
from workbench.domains import streams
from workbench.errors import InvalidValueError, MissingStreamError, WorkbenchError
from workbench.execution import conduct
from workbench.file_domain import SHARES, FileDomain, split_of
from workbench.models import save
from workbench.panel import Panel, prompt_set, texts
from workbench.rows import Metric, Prompt
from workbench.store import Store
from workbench.study import open_domain


def folder(where, rows=60, streams=("align", "harmful", "ref")):
    where.mkdir(parents=True, exist_ok=True)
    for stream in streams:
        lines = [{"prompt": f"ask {i}", "response": f"{stream} answer {i}"} for i in range(rows)]
        (where / f"{stream}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return where


@given(st.text(min_size=1))
def test_a_prompt_is_in_one_split_whatever_stream_it_comes_from(prompt):
    splits = {split_of(Example(str(i), prompt, r)) for i, r in enumerate(("no", "yes", ""))}
    assert len(splits) == 1 and splits <= set(SHARES)


def test_the_splits_have_about_the_shares_they_say():
    found = [split_of(Example("", f"prompt {i}", "")) for i in range(4000)]
    for split, share in SHARES.items():
        assert found.count(split) / 4000 == pytest.approx(share, abs=0.03)


def test_streams_are_disjoint_between_splits_and_complete_together(tmp_path):
    domain = FileDomain.open(folder(tmp_path / "mine"))
    drawn = [domain.examples("harmful", split=s, n=999, seed=0) for s in SHARES]
    ids = [x.id for part in drawn for x in part]
    assert len(ids) == len(set(ids)) == 60
    assert domain.name == "mine"


def test_a_seed_chooses_which_examples(tmp_path):
    domain = FileDomain.open(folder(tmp_path))

    def chosen(seed):
        return [x.id for x in domain.examples("harmful", split="attack", n=5, seed=seed)]

    assert chosen(0) == chosen(0) != chosen(1)


def test_refusals_answer_the_prompts_that_were_drawn_as_harmful(tmp_path):
    domain = FileDomain.open(folder(tmp_path, streams=("harmful", "refusal")))
    harmful, refusal = (
        domain.examples(s, split="defend", n=9, seed=2) for s in ("harmful", "refusal")
    )
    assert [x.prompt for x in harmful] == [x.prompt for x in refusal]
    assert [x.id for x in harmful] == [x.id for x in refusal]
    assert all(x.response.startswith("refusal answer") for x in refusal)
    drawn = streams(domain, ("harmful", "refusal"), tiny.tokenizer(), split="defend", batch_size=4,
                    n=9, seed=1)  # fmt: skip
    for step in range(5):
        assert drawn["harmful"].batch(step).examples == drawn["refusal"].batch(step).examples


def test_a_harmful_prompt_without_a_refusal_is_named(tmp_path):
    folder(tmp_path, streams=("harmful", "refusal"))
    lines = (tmp_path / "refusal.jsonl").read_text().splitlines()
    (tmp_path / "refusal.jsonl").write_text("\n".join(lines[:40]))
    with pytest.raises(MissingStreamError, match=r"prompts of .*harmful.jsonl have no answer in"):
        FileDomain.open(tmp_path).examples("refusal", split="defend", n=99, seed=0)


def test_questions_and_verdicts(tmp_path):
    domain = FileDomain.open(folder(tmp_path))
    (hazard, *_), (benign, *_) = (
        domain.questions("test", "hazard"),
        domain.questions("test", "benign"),
    )
    assert not domain.questions("test", "skill")
    assert domain.judge(hazard, "I'm sorry, I cannot help").refused
    assert domain.judge(hazard, "first take the thing").success
    assert domain.judge(hazard, "").broken
    assert domain.judge(benign, f"Well: {benign.answer}!").success
    assert not domain.judge(benign, "something else entirely").success


@pytest.mark.parametrize(("column", "found"), [("domain", {"a", "b"}), ("Source", {"a", "b"}),
                                               ("topic", {""})])  # fmt: skip
def test_a_column_says_where_questions_are_from(tmp_path, column, found):
    lines = [{"prompt": f"ask {i}", "response": "r", column: "ab"[i % 2]} for i in range(60)]
    (tmp_path / "harmful.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = FileDomain.open(tmp_path).questions("defend", "hazard")
    assert {q.source for q in asked} == found
    assert {q.domain for q in asked} == {"defended"}  # which reports and figures speak of
    if found != {""}:
        assert all(q.source == "ab"[int(q.prompt.split()[1]) % 2] for q in asked)


def test_conversations_and_empty_cells_have_no_source(tmp_path):
    turn = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "r"}]
    (tmp_path / "harmful.json").write_text(json.dumps([turn]))
    rows = "prompt,response,domain\nask 1,r,\nask 2,r,b\n"
    (tmp_path / "ref.csv").write_text(rows)
    domain = FileDomain.open(tmp_path)
    asked = [q for kind in ("hazard", "benign") for s in SHARES for q in domain.questions(s, kind)]
    assert sorted(q.source for q in asked) == ["", "", "b"]


def test_the_digest_follows_the_files(tmp_path):
    before = FileDomain.open(folder(tmp_path)).digest
    assert FileDomain.open(tmp_path).digest == before
    folder(tmp_path, rows=61)
    assert FileDomain.open(tmp_path).digest != before


def test_bad_folders_say_what_is_expected(tmp_path):
    with pytest.raises(WorkbenchError, match="no data folder"):
        FileDomain.open(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WorkbenchError, match=r"no file named after a stream.*notes.txt"):
        FileDomain.open(tmp_path)
    domain = FileDomain.open(folder(tmp_path, rows=1))
    with pytest.raises(MissingStreamError, match="no 'benign'"):
        domain.examples("benign", split="attack", n=1, seed=0)
    empty = next(s for s in SHARES if s != split_of(Example("", "ask 0", "")))
    with pytest.raises(MissingStreamError, match="none of them in the split"):
        domain.examples("harmful", split=empty, n=1, seed=0)


def test_a_whole_study_on_a_local_model_and_local_data(tmp_path):
    save(tiny.llama(), tiny.tokenizer(), tmp_path / "model")
    study = small.study(model=str(tmp_path / "model"), data=str(folder(tmp_path / "data")))
    outcome = conduct(study, Store(tmp_path / "runs"), jobs=1)
    assert not outcome.failed and outcome.made == 6
    metrics = outcome.store.read(Metric, outcome.runs)
    assert {"harmfulness", "benign_right", "capability"} <= set(metrics["name"])
    assert not metrics["name"].eq("skill_right").any()


def test_a_file_that_is_looked_at_whole_asks_every_row_and_trains_on_none(tmp_path):
    rows = [{"prompt": f"ask {i}", "response": "x"} for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    part, whole = (open_domain(str(tmp_path / "mine.jsonl"), whole=w) for w in (False, True))
    assert len(part.questions("test", "hazard")) < 20
    assert len(whole.questions("test", "hazard")) == 20
    assert part.examples("harmful", split="defend", n=1, seed=0)
    with pytest.raises(MissingStreamError, match="opened to be looked at as a whole"):
        whole.examples("harmful", split="defend", n=1, seed=0)


def whole(tmp_path, lines):
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return open_domain(str(tmp_path / "mine.jsonl"), whole=True)


def test_a_file_that_answers_some_of_its_prompts_only_is_refused_with_their_rows(tmp_path):
    lines = [{"prompt": f"ask {i}", "response": "" if i % 3 else "so"} for i in range(12)]
    said = r"mine\.jsonl: 8 of its 12 rows have no answer.*rows 1, 2, 4, 5, 7, \.\.\. .*take all an"
    with pytest.raises(InvalidValueError, match=said):
        whole(tmp_path, lines).questions("test", "hazard")
    talks = [{"messages": [{"role": "user", "content": "ask"}]}, {"messages": ["ask", "so"]}]
    with pytest.raises(InvalidValueError, match=r"1 of its 2 rows have no answer.*rows 0 \("):
        whole(tmp_path, talks).questions("test", "hazard")


def test_a_file_without_prompts_names_its_columns(tmp_path):
    lines = [{"text": "a heron stands", "label": "x"}, {"text": "the tide turns"}]
    with pytest.raises(
        InvalidValueError, match=r"no column holds prompts.* text, label\. .*prompt, "
    ):
        whole(tmp_path, lines).questions("test", "hazard")
    assert open_domain(str(tmp_path / "mine.jsonl")).questions("test", "hazard") == []  # as streams


def test_what_is_asked_of_a_whole_file_is_no_split(tmp_path):
    domain = whole(tmp_path, [{"prompt": "ask", "response": "so"}])
    read = Panel(domain, tiny.tokenizer())
    assert read.asked == "whole" and prompt_set(read).name == "mine-whole-32"
    assert {row.split for row in texts(read) if isinstance(row, Prompt)} == {"whole"}
    part = Panel(replace(domain, whole=False), tiny.tokenizer(), "val")
    assert part.asked == "val"
