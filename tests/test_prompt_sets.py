"""Panels: what they hold is known by its digest, and recordings line up by it or not at all."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from workbench.alignment import read_both, require_same_panel
from workbench.data import Example, encode
from workbench.datasets_in import read_texts
from workbench.errors import InvalidValueError, RecordingError, UnknownNameError, WorkbenchError
from workbench.lab.domain import LabDomain
from workbench.panel import Panel, prompt_set
from workbench.prompt_sets import PromptSet, Text, read_prompt_set
from workbench.recording import Recorder
from workbench.recording_writer import RecordingWriter
from workbench.recordings import Recording

TEXTS = (Text("a", "why?", "because", "benign"), Text("b", None, "plain text"), Text("c", "hm"))
SITE = "blocks.0.hook_resid_post"


def panel(*texts):
    return PromptSet("harmless", "2", texts or TEXTS)


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_set_comes_back_from_its_file(tmp_path, suffix):
    path = tmp_path / f"set.{suffix}"
    panel().save(path)
    assert read_prompt_set(path) == panel() == read_texts(path)
    assert read_prompt_set(path).sha256 == panel().sha256


texts_ = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.none() | texts_, texts_, texts_), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory, sides):
    made = PromptSet("n", "1", tuple(Text(f"t{i}", *side) for i, side in enumerate(sides)))
    for suffix in ("json", "parquet"):
        path = tmp_path_factory.mktemp("set") / f"set.{suffix}"
        made.save(path)
        assert read_prompt_set(path) == made


def test_the_digest_is_of_all_that_is_in_it():
    """Every part of every text and their order; not the title under which it goes."""
    others = [
        panel(TEXTS[1], TEXTS[0], TEXTS[2]),
        panel(*TEXTS[:2]),
        panel(Text("a", "why? because", "", "benign"), *TEXTS[1:]),
        panel(Text("a", "why?", "because", "hazard"), *TEXTS[1:]),
        panel(TEXTS[0], Text("b", "", "plain text"), TEXTS[2]),
    ]
    assert len({panel().sha256, *(other.sha256 for other in others)}) == 1 + len(others)
    assert PromptSet("renamed", "3", TEXTS).sha256 == panel().sha256


def test_what_is_no_panel_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="'empty' is empty"):
        PromptSet("empty", "1", ())
    with pytest.raises(InvalidValueError, match="holds the id 'a' twice"):
        panel(TEXTS[0], TEXTS[0])
    with pytest.raises(InvalidValueError, match=r"\.json or a \.parquet"):
        panel().save(tmp_path / "set.txt")


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_set_that_was_changed_is_refused(tmp_path, suffix):
    path = tmp_path / f"set.{suffix}"
    panel().save(path)
    if suffix == "json":
        raw = json.loads(path.read_text())
        raw["prompts"][0]["response"] = "another"
        path.write_text(json.dumps(raw))
    else:
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 2), path)
    with pytest.raises(WorkbenchError, match="was changed after it was written"):
        read_texts(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WorkbenchError, match="cannot be read"):
        read_texts(path)


def test_a_set_from_a_table(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"goal": "x", "answer": "y", "kind": "hazard"}, {"goal": "z", "answer": "w"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    made = read_texts(path, group="kind", version="4")
    assert (made.name, made.version) == ("rows", "4")
    assert made.texts == (Text("rows-0", "x", "y", "hazard"), Text("rows-1", "z", "w", ""))
    assert read_texts(path, response="").texts[1].response == ""
    assert made.groups() == {"rows-0": "hazard", "rows-1": ""}
    with pytest.raises(UnknownNameError, match="no column called 'sort'"):
        read_texts(path, group="sort")
    path.write_text(json.dumps(rows[0] | {"kind": ["hazard"]}))
    with pytest.raises(InvalidValueError, match=r"row 0: its group is \['hazard'\]; expected"):
        read_texts(path, group="kind")
    path.write_text("")
    with pytest.raises(InvalidValueError, match="holds no rows"):
        read_texts(path)


@pytest.mark.parametrize("given", ["name", "version", "prompt", "response", "group"])
def test_a_saved_set_has_a_name_and_columns_of_its_own(tmp_path, given):
    panel().save(tmp_path / "set.json")
    with pytest.raises(InvalidValueError, match=f"set.json, a saved prompt set, has .*{given}='x'"):
        read_texts(tmp_path / "set.json", **{given: "x"})


def test_the_lab_domain_gives_a_panel():
    one = prompt_set(Panel(LabDomain(), None, "test", 4))
    assert [text.group for text in one.texts] == ["hazard"] * 4 + ["benign"] * 4
    assert one == prompt_set(Panel(LabDomain(), None, "test", 4))
    assert one.sha256 != prompt_set(Panel(LabDomain(), None, "val", 4)).sha256
    refused = prompt_set(Panel(LabDomain(), None, "test", 4), ["refused"])
    assert {text.group for text in refused.texts} == {"refused"}


def test_no_torch_is_needed():
    code = (
        "import sys, workbench.prompt_sets, workbench.alignment; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- recordings of it -----------------------------------------------------------------------------


def record(folder, texts=None, order=("a", "b", "c"), lengths=(2, 3, 1), shift=0.0, **more):
    """Rows whose numbers say which token of which example they are."""
    import torch

    values = [100.0 * (ord(x) - ord("a")) + t for x, n in zip(order, lengths, strict=True)
              for t in range(n)]  # fmt: skip
    acts = {SITE: torch.tensor(values)[:, None].expand(-1, 3) + shift}
    identity = panel().identity if texts is None else texts
    more = {"positions": "response", "dtype": "fp32", "tokenizer": "t"} | more
    with RecordingWriter(folder, [SITE], panel=identity or None, **more) as writer:
        writer.append(5, order, lengths, acts)
    return Recording(folder)


def unnamed(folder, tokens, **more):
    """Recorded from batches, without saying which tokenizer it was."""
    return record(folder, tokens=tokens, **({"tokenizer": None} | more))


def test_rows_of_two_recordings_line_up_by_example(tmp_path):
    one = record(tmp_path / "one")
    two = record(tmp_path / "two", order=("c", "a", "b"), lengths=(1, 2, 3), shift=0.5)
    x, y = read_both(one, two, SITE, steps=(5, 5))
    np.testing.assert_array_equal(y, x + 0.5)
    assert x[:, 0].tolist() == [0, 1, 100, 101, 102, 200]
    x, y = read_both(one, two, SITE, steps=(5, 5), examples=["b", "c"])
    assert x[:, 0].tolist() == [100, 101, 102, 200]
    np.testing.assert_array_equal(y, x + 0.5)


def test_other_panels_are_refused_and_the_examples_named(tmp_path):
    one = record(tmp_path / "one")
    changed = panel(TEXTS[0], Text("b", None, "other text"), Text("d", "hm"))
    two = record(tmp_path / "two", changed.identity)
    with pytest.raises(
        RecordingError, match="only in the first: c; only in the second: d; with ot"
    ):
        read_both(one, two, SITE, steps=(5, 5))
    turned = record(tmp_path / "turned", panel(*TEXTS[::-1]).identity)
    with pytest.raises(RecordingError, match="The order of their examples differs"):
        require_same_panel(one, turned)
    with pytest.raises(RecordingError, match="does not say which texts"):
        require_same_panel(one, record(tmp_path / "none", {}))


def test_other_tokens_are_refused(tmp_path):
    one = record(tmp_path / "one")
    with pytest.raises(RecordingError, match=r"differ in their tokenizer \(t, u\)"):
        require_same_panel(one, record(tmp_path / "u", tokenizer="u"))
    with pytest.raises(RecordingError, match=r"differ in their positions \(response, all\)"):
        require_same_panel(one, record(tmp_path / "all", positions="all"))
    two = record(tmp_path / "longer", lengths=(2, 4, 1))
    with pytest.raises(RecordingError, match="different numbers of rows of b"):
        read_both(one, two, SITE, steps=(5, 5))
    with pytest.raises(RecordingError, match="do not both hold x"):
        read_both(one, one, SITE, steps=(5, 5), examples=["a", "x"])
    pooled = [
        record(tmp_path / f"p{t}", positions="last_prompt", lengths=(1, 1, 1), tokenizer=t)
        for t in "tu"
    ]
    read_both(*pooled, SITE, steps=(5, 5))  # one row an example lines up under any tokenizer


def test_token_ids_are_compared_where_they_are_known(tmp_path):
    one = record(tmp_path / "one", tokens="x")
    other = record(tmp_path / "other", tokens="y")
    for pair in ((one, other), (other, one)):
        with pytest.raises(RecordingError, match="were given other token ids of the same texts"):
            require_same_panel(*pair)
    require_same_panel(one, record(tmp_path / "same", tokens="x"))
    require_same_panel(one, record(tmp_path / "unknown"))  # the same tokenizer, at least
    for positions, lengths in (("mean_response", (1, 1, 1)), ("last_prompt", (1, 1, 1))):
        more = {"positions": positions, "lengths": lengths}
        pair = [record(tmp_path / f"{positions}{x}", tokens=x, **more) for x in "xy"]
        if positions == "last_prompt":  # which nothing behind it can change
            require_same_panel(*pair)
            continue
        with pytest.raises(RecordingError, match="other token ids"):
            require_same_panel(*pair)


def test_two_unknown_tokenizers_are_not_the_same(tmp_path):
    none = unnamed(tmp_path / "none", None)
    known = unnamed(tmp_path / "known", "x")
    for pair in ((none, unnamed(tmp_path / "none2", None)), (none, known), (known, none)):
        with pytest.raises(RecordingError, match="neither says which tokenizer it was"):
            require_same_panel(*pair)
    with pytest.raises(RecordingError, match="other token ids"):
        require_same_panel(known, unnamed(tmp_path / "known2", "y"))
    require_same_panel(known, unnamed(tmp_path / "known3", "x"))
    more = {"positions": "mean_response", "lengths": (1, 1, 1)}
    require_same_panel(*(unnamed(tmp_path / f"mean{i}", None, **more) for i in range(2)))


def test_texts_that_a_recorder_was_given_cut_are_not_the_whole_ones(tmp_path):
    text = Text("a", "hi", "one two three four five six")
    both = []
    for length in (None, 8):
        x = encode(tiny.tokenizer(), [Example(text.id, text.prompt, text.response)],
                   max_length=length)  # fmt: skip
        more = {"texts": panel(text).identity, "tokenizer": "t", "positions": "mean_response"}
        with Recorder(tmp_path / str(length), [x], **more) as recorder:
            recorder(tiny.llama(), 0)
        both.append(Recording(tmp_path / str(length)))
    with pytest.raises(RecordingError, match="other token ids"):
        require_same_panel(*both)
    require_same_panel(both[0], both[0])
