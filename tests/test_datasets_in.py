import csv
import json

import pandas as pd
import pytest

from workbench.datasets_in import read_examples
from workbench.errors import InvalidValueError, UnknownNameError, WorkbenchError

TALK = [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}]
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
        ([], {}, InvalidValueError, "none"),
        (
            [{"question": "x", "answer": "y"}, {"question": "x", "answer": 2}],
            {},
            InvalidValueError,
            "row 1: its response is 2; expected text",
        ),
        ([{"prompt": " ", "response": "y"}], {}, InvalidValueError, "row 0: its prompt is ' '"),
        ([{"messages": TALK[:1]}], {}, InvalidValueError, "row 0: its response is None"),
        ([{"messages": []}], {}, InvalidValueError, "row 0: its prompt is None"),
    ],
)
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
        ("a.xlsx", b"", "is not a .csv, .json, .jsonl, .parquet file"),
    ],
)
def test_files_that_are_broken(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbenchError, match=message):
        read_examples(tmp_path / name)


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
