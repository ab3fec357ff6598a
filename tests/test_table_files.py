"""Rows from files: what cannot be read is said with the file's own lines and columns."""

import pytest

from workbench.errors import InvalidValueError, WorkbenchError
from workbench.table_files import read_rows


def refused(path, message, error=WorkbenchError):
    with pytest.raises(error, match=message):
        read_rows(path)


def test_a_fault_is_said_with_the_files_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x"}\n\n{"prompt": }\n')
    refused(path, r"as jsonl: line 3, column 12: Expecting value")


def test_blank_lines_and_a_mark_at_the_start_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x"}\r\n\n  \n{"a": "y"}')
    assert read_rows(path) == [{"a": "x"}, {"a": "y"}]


@pytest.mark.parametrize("rows", ["", "p1,r1,p2\n"])
def test_a_column_twice_in_a_header_is_refused(tmp_path, rows):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response,prompt\n" + rows)
    refused(path, "its header names the column 'prompt' more than once")


def test_columns_without_a_name_may_be_many(tmp_path):
    """Spreadsheets put commas behind the last cell."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response,,\np,r,,\n")
    assert read_rows(path) == [{"prompt": "p", "response": "r", "": ""}]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.csv", ""), ("a.csv", "prompt\n")],
)
def test_a_file_without_rows_says_so(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, f"{name} holds no rows", InvalidValueError)


def test_a_folder_is_no_file(tmp_path):
    refused(tmp_path, r"is a folder; give one \.csv, \.json, \.jsonl, \.parquet file")
