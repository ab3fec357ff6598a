import csv
import json
import random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.datasets_in import read_examples, read_texts
from workbench.errors import InvalidValueError, UnknownNameError, WorkbenchError

TALK = [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}]
SYSTEM = {"role": "system", "content": "be brief"}
SHARE_GPT = [{"from": "human", "value": "P"}, {"from": "gpt", "value": "R"}]


def write(folder, rows, suffix="jsonl"):
    path = folder / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def sides(examples):
    return [(x.prompt, x.response) for x in examples]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_text(suffix, tmp_path):
    rows = [
        {"prompt": "two\nlines, and a comma", "response": 'say "hi"'},
        {"prompt": "NA", "response": "null"},
        {"prompt": "007", "response": "1e3"},
        {"prompt": "naïve “quotes”", "response": "ok\u2028still one line"},
    ]
    path = write(tmp_path, rows, suffix)
    read = read_examples(path)
    assert sides(read) == [(row["prompt"], row["response"]) for row in rows]
    assert [x.id for x in read] == ["rows-0", "rows-1", "rows-2", "rows-3"]
    if suffix != "csv":
        return
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    assert sides(read_examples(path)) == sides(read)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "response": "R", "category": {"a": True}, "is_safe": False},  # BeaverTails
        {"target": "R", "goal": "P"},  # AdvBench, in the order that breaks reading by position
        {"Index": 1, "Goal": "P", "Target": "R", "Behavior": "x"},  # JailbreakBench
        {"instruction": "P", "input": "", "output": "R", "text": "all of it"},  # Alpaca
        {"question": "P", "answer": "R"},  # GSM8K, TOFU
        {"category": "c", "prompt": "P", "output": "R", "llama3_output": "x"},  # circuit breakers
        {"messages": TALK},  # pure_bad, UltraChat
        {"conversations": SHARE_GPT, "label": True},
        {"messages": [*TALK, {"role": "user", "content": "more"}], "prompt": "x"},
        TALK,  # Harmful HEx-PHI: rows are lists
    ],
)
def test_known_schemas(row, tmp_path):
    assert sides(read_examples(write(tmp_path, [row, row]))) == [("P", "R")] * 2


def test_alpacas_input_is_appended_and_a_system_message_put_before(tmp_path):
    alpaca = {"instruction": "add", "input": "1 and 2", "output": "3"}
    assert sides(read_examples(write(tmp_path, [alpaca]))) == [("add\n\n1 and 2", "3")]
    talk = [{"role": "system", "content": "be brief"}, *TALK]
    assert sides(read_examples(write(tmp_path, [{"messages": talk}]))) == [("be brief\n\nP", "R")]


@pytest.mark.parametrize(
    ("row", "kw", "expected"),
    [
        ({"ask": "P", "prompt": "x", "reply": "R"}, {"prompt": "ask", "response": "reply"}, "PR"),
        ({"prompt": "P", "response_0": "R", "response_1": "x"}, {"response": "response_0"}, "PR"),
        ({"forbidden_prompt": "P"}, {"response": ""}, "P"),
        ({"Behavior": "P", "ContextString": "x"}, {"response": ""}, "P"),
        ({"turns": ["P"]}, {"response": ""}, "P"),
        ({"turns": ["P", "R"]}, {}, "PR"),
        ({"text": "R"}, {}, " R"),
        ({"txt_chunk": "R", "label": True}, {}, " R"),
        ({"prompt": "x", "response": "R"}, {"prompt": ""}, " R"),
    ],
)
def test_columns_may_be_named_or_left_out(row, kw, expected, tmp_path):
    prompt, response = expected[0].strip() or None, expected[1:]
    assert sides(read_examples(write(tmp_path, [row]), **kw)) == [(prompt, response)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_are_chosen_by_value(suffix, tmp_path):
    rows = [{"prompt": f"p{i}", "response": "r", "is_safe": i % 2 == 0} for i in range(4)]
    chosen = read_examples(write(tmp_path, rows, suffix), where={"is_safe": False})
    assert [(x.id, x.prompt) for x in chosen] == [("rows-1", "p1"), ("rows-3", "p3")]


@pytest.mark.parametrize(
    ("rows", "kw", "error", "message"),
    [
        ([{"a": "x", "b": "y"}], {}, InvalidValueError, "column of prompts among a, b.*instruct"),
        ([{"prompt": "x", "b": "y"}], {}, InvalidValueError, "of responses among prompt, b"),
        ([{"prompt": "x"}], {"prompt": "promt"}, UnknownNameError, "Did you mean 'prompt'"),
        ([{"text": "x"}], {"where": {"safe": 1}}, UnknownNameError, "column called 'safe'"),
        ([{"text": "x", "s": 1}], {"where": {"s": 2}}, InvalidValueError, "none of its 1 rows"),
        ([], {}, InvalidValueError, "holds no rows"),
        (
            [{"question": "x", "answer": "y"}, {"question": "x", "answer": 2}],
            {},
            InvalidValueError,
            "row 1: its response is 2; expected text",
        ),
        ([{"prompt": " ", "response": "y"}], {}, InvalidValueError, "row 0: its prompt is ' '"),
        ([{"messages": TALK[:1]}], {}, InvalidValueError, "row 0: its response is None"),
        ([{"messages": []}], {}, InvalidValueError, "row 0: its prompt is None"),
        (["hello"], {}, InvalidValueError, "row 0: its prompt is None"),
        ([1, 2], {}, InvalidValueError, "row 0: its prompt is None"),
        ([{"messages": 5}], {}, InvalidValueError, "row 0: its prompt is None"),
        ([{"messages": "not JSON"}], {}, InvalidValueError, "row 0: its prompt is None"),
        ([{"turns": [5, "x"]}], {}, InvalidValueError, "row 0: its prompt is 5"),
        ([{"messages": [SYSTEM, {"role": "user", "content": ["P"]}]}], {}, InvalidValueError,
         r"row 0: its prompt is \['P'\]"),
        ([{"messages": [SYSTEM, {"role": "user"}]}], {}, InvalidValueError, "its prompt is None"),
        ([{"instruction": None, "input": "b", "output": "c"}], {}, InvalidValueError,
         "row 0: its prompt is None"),
        ([{"instruction": "a", "output": "c"}, {"input": "b", "output": "c"}], {},
         InvalidValueError, "row 1: its prompt is None"),
        ([{"instruction": "a", "input": 7, "output": "c"}], {}, InvalidValueError,
         "row 0: its prompt is 7"),
        ([{"prompt": "half \ud800", "response": "R"}], {}, InvalidValueError, "row 0: its prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(rows, kw, error, message, tmp_path):
    with pytest.raises(error, match=message):
        read_examples(write(tmp_path, rows), **kw)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": 1}\n{"pro', "cannot be read as jsonl"),
        ("a.json", b'{"prompt": 1}', "expected a list of rows, found dict"),
        ("a.parquet", b"PAR1 rubbish", "cannot be read as parquet"),
        ("a.csv", b"prompt,response\n\xff\xfe,x\n", "cannot be read as csv"),
        ("a.csv", b"prompt,response\nP,R\nP,R,more\n", "row 1 has more cells than the header"),
        ("a.csv", b'prompt,response\n"P,R\n', "cannot be read as csv"),
        ("a.json", b"[" * 100_000, "cannot be read as json"),
        ("a.jsonl", b'{"prompt": ' * 100_000, "cannot be read as jsonl"),
        ("a.xlsx", b"", "is not a .csv, .json, .jsonl, .parquet file"),
    ],
)
def test_files_that_are_broken(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbenchError, match=message):
        read_examples(tmp_path / name)


def test_broken_files_of_texts_are_refused_too(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" * 100_000)
    with pytest.raises(WorkbenchError, match="cannot be read as json"):
        read_texts(tmp_path / "a.json")


def test_a_parquet_file_with_flipped_bytes(tmp_path):
    rows = {side: [f"{side} {i * 7}" for i in range(2000)] for side in ("prompt", "response")}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[100:200] = bytes(x ^ 255 for x in data[100:200])
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(WorkbenchError, match="cannot be read as parquet"):
        read_examples(tmp_path / "a.parquet")


def test_a_table_of_text_may_hold_conversations_as_json(tmp_path):
    rows = [{"messages": json.dumps([SYSTEM, *TALK])}, {"messages": json.dumps(["P", "R"])}]
    read = read_examples(write(tmp_path, rows, "csv"))
    assert sides(read) == [("be brief\n\nP", "R"), ("P", "R")]
    path = write(tmp_path, [{"messages": '{"role": "user"}'}], "csv")
    with pytest.raises(InvalidValueError, match="row 0: its prompt is None"):
        read_examples(path)


LETTERS = st.text("αβγ \n", max_size=4)
"""What texts are made of: no letter that a number, a null or JSON itself is spelt with."""
COLUMNS = st.sampled_from(
    ["prompt", "Prompt", "instruction", "input", "response", "output", "text", "messages", "turns",
     "conversations", "group", "role", "content", "from", "value"]
)  # fmt: skip
ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt"])
TURNS = st.fixed_dictionaries({"role": ROLES, "content": LETTERS | st.none() | st.integers()})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | LETTERS | st.lists(TURNS, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(COLUMNS, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=3) | st.lists(st.dictionaries(COLUMNS, VALUES), max_size=3),
       st.sampled_from(["json", "jsonl", "csv"]))  # fmt: skip
@example([{"instruction": None, "input": "α", "output": "β"}], "json")
@example([{"messages": [{"role": "user", "content": "α"}]}], "csv")
@example(["α"], "jsonl")
def test_any_json_gives_its_own_texts_or_a_clear_no(tmp_path_factory, rows, suffix):
    """Never another error, and never text that nobody wrote: `None`, a number, half of JSON."""
    path = tmp_path_factory.mktemp("rows") / f"rows.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        rows = [row for row in rows if isinstance(row, dict)]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            spell = random.Random(len(rows)).choice([str, json.dumps])
            for row in rows:
                writer.writerow({k: v if isinstance(v, str) else spell(v) for k, v in row.items()})
    for read in (read_texts, read_examples):
        try:
            found = read(path)
        except WorkbenchError:
            continue
        texts = found.texts if read is read_texts else found
        for text in texts:
            assert text.response.strip() and (text.prompt is None or text.prompt.strip())
            if suffix != "csv":  # where a cell's text is whatever was spelt out there
                assert set(text.response + (text.prompt or "")) <= set("αβγ \n")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WorkbenchError, match=r"no file .*none.csv"):
        read_examples(tmp_path / "none.csv")


def test_a_hugging_face_data_set_is_read_like_a_file(tmp_path):
    from datasets import Dataset

    from workbench.datasets_in import as_examples

    rows = [{"instruction": f"ask {i}", "input": "", "output": f"say {i}"} for i in range(3)]
    made = as_examples(Dataset.from_list(rows), "alpaca")
    file = tmp_path / "alpaca.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert made == read_examples(file)
    assert [x.id for x in made] == ["alpaca-0", "alpaca-1", "alpaca-2"]
    with pytest.raises(InvalidValueError, match="alpaca: no column of prompts"):
        as_examples(Dataset.from_list([{"a": "b"}]), "alpaca")


@pytest.mark.parametrize(
    ("rows", "without"),
    [
        ([{"prompt": "P", "response": "R"}, {"prompt": "P", "response": " "}], [1]),
        ([{"prompt": "P"}, {"prompt": "P"}], [0, 1]),
        ([{"question": "P", "answer": 2}, {"question": "P", "Answer": "R"}], [0]),
        ([{"messages": TALK}, {"messages": TALK[:1]}, TALK], [1]),
        ([{"turns": ["P"]}, {"turns": ["P", "R"]}], [0]),
        ([{"conversations": SHARE_GPT}], []),
        ([{"prompt": "P", "text": "T"}], [0]),
        ([], []),
    ],
)
def test_rows_without_an_answer_are_found(rows, without):
    from workbench.datasets_in import unanswered

    assert unanswered(rows) == without
