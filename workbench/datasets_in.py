"""Examples from files and from Hugging Face data sets, whose columns are found by name.

The names are those of data sets in common use: BeaverTails, AdvBench, HarmBench, StrongREJECT,
JailbreakBench, Alpaca, GSM8K, TOFU, circuit breakers, and files of messages. Text is taken as it
stands in the file: nothing is guessed to be a number or a missing value.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from workbench.data import Example
from workbench.errors import InvalidValueError, UnknownNameError, WorkbenchError
from workbench.prompt_sets import PromptSet, read_prompt_set
from workbench.prompt_sets import Text as PanelText

PROMPTS = ("prompt", "instruction", "question", "goal", "behavior", "forbidden_prompt", "query")
RESPONSES = ("response", "output", "completion", "answer", "target")
TEXTS = ("text", "txt_chunk", "text_chunk")
"""Plain text, learnt without a prompt."""
MESSAGES = ("messages", "conversations", "turns")
"""A conversation: its first user turn (after the system's, if any) and the answer to it."""
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")

Row = Mapping[str, Any]
Text = Callable[[Row], str | None]
"""Takes one side of an example from a row; None where the row does not hold it."""


def read_examples(
    path: str | Path,
    *,
    prompt: str | None = None,
    response: str | None = None,
    where: Mapping[str, object] | None = None,
) -> list[Example]:
    """Read a file of prompts and responses, in the file's order.

    Columns are found by name, whatever their order and case. An `input` column (Alpaca) is appended
    to the instruction, a system message put before the prompt.

    Args:
        path: a `.csv` with a header, `.json` (a list of rows), `.jsonl` or `.parquet` file.
        prompt: the column of prompts, if its name is not a known one; "" for text without prompt.
        response: the column of responses, likewise; "" for prompts without response.
        where: keep the rows that have these values, e.g. `{"is_safe": False}` (BeaverTails).

    Raises:
        WorkbenchError: no such file, or one that cannot be read.
        UnknownNameError: a column was named that the file does not have.
        InvalidValueError: no column was recognised, or a row does not hold text there.
    """
    file = Path(path)
    return as_examples(
        read_rows(file), file.stem, prompt=prompt, response=response, where=where, source=str(file)
    )


def read_texts(
    path: str | Path,
    *,
    name: str | None = None,
    version: str = "1",
    prompt: str | None = None,
    response: str | None = None,
    group: str | None = None,
) -> PromptSet:
    """A panel from a file: a prompt set as it was saved, or a table of prompts and responses.

    Args:
        path: as in `read_examples`, or a prompt set's own file.
        name: of the set; by default the file's.
        version: of the set.
        prompt: the column of prompts, as in `read_examples`.
        response: the column of responses, likewise.
        group: the column that says what kind of text a row is; by default `group`, if there is one.

    Raises:
        WorkbenchError: no such file, or one that cannot be read.
        UnknownNameError: a column was named that the file does not have.
        InvalidValueError: no column was recognised, or a row does not hold text there.
    """
    file = Path(path)
    if (saved := read_prompt_set(file)) is not None:
        return saved
    rows = read_rows(file)
    if not rows:
        raise InvalidValueError(f"{file} holds no rows.")
    examples = as_examples(rows, file.stem, prompt=prompt, response=response, source=str(file))
    known = {key.lower(): key for row in rows if isinstance(row, Mapping) for key in row}
    column = _named(known, group) if group else known.get("group")
    found = [row.get(column) if column else None for row in rows]
    kinds = ["" if kind is None else str(kind) for kind in found]
    texts = [PanelText(x.id, x.prompt, x.response, k) for x, k in zip(examples, kinds, strict=True)]
    return PromptSet(name or file.stem, version, tuple(texts))


def as_examples(
    rows: Iterable[Any],
    name: str,
    *,
    prompt: str | None = None,
    response: str | None = None,
    where: Mapping[str, object] | None = None,
    source: str | None = None,
) -> list[Example]:
    """Examples from rows in memory: a list of dicts, or a Hugging Face `datasets.Dataset`.

    So a set from the Hub is `as_examples(datasets.load_dataset(...), "beavertails",
    where={"is_safe": False})`. Columns and errors are those of `read_examples`; `name` begins the
    examples' ids, `source` is what errors speak of.
    """
    source = source or name
    rows = [row if isinstance(row, Mapping) else {"messages": row} for row in rows]
    columns = {name.lower(): name for row in rows for name in row}
    ask, answer = _columns(columns, prompt, response, source)
    kept = [(i, row) for i, row in enumerate(rows) if _matches(row, where or {}, columns)]
    if not kept:
        raise InvalidValueError(f"{source}: none of its {len(rows)} rows is left to read.")
    return [_example(f"{name}-{i}", row, ask, answer, f"{source}, row {i}") for i, row in kept]


def _example(name: str, row: Row, ask: Text | None, answer: Text | None, where: str) -> Example:
    asked, answered = (None if take is None else take(row) for take in (ask, answer))
    for side, take, text in (("prompt", ask, asked), ("response", answer, answered)):
        if take is not None and not (isinstance(text, str) and text.strip()):
            raise InvalidValueError(f"{where}: its {side} is {text!r}; expected text.")
    return Example(name, asked, answered or "")


def _columns(
    columns: Mapping[str, str], prompt: str | None, response: str | None, source: str
) -> tuple[Text | None, Text | None]:
    """How to take prompt and response from a row; None for a side that there is not."""
    talk = _known(columns, MESSAGES)
    if talk and prompt is None and response in (None, ""):
        return _turn(talk, 0), (_turn(talk, 1) if response is None else None)
    text = _known(columns, TEXTS)
    asks = _named(columns, prompt) if prompt else _known(columns, PROMPTS)
    answers = _named(columns, response) if response else _known(columns, RESPONSES)
    if prompt == "" or (text and asks is None and answers is None):
        asks, answers = "", answers or text
    if response == "" and asks:
        answers = ""
    if asks is None or answers is None:
        side, known = ("prompt", PROMPTS) if asks is None else ("response", RESPONSES)
        raise InvalidValueError(
            f"{source}: no column of {side}s among {', '.join(columns.values()) or 'none'}. Known "
            f"names: {', '.join(known)}. Name it with {side}=..., or say {side}='' for none."
        )
    return (_prompt(asks, columns) if asks else None), (_cell(answers) if answers else None)


def _known(columns: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _named(columns: Mapping[str, str], name: str) -> str:
    if name not in columns.values():
        raise UnknownNameError("column", name, columns.values())
    return name


def _cell(column: str) -> Text:
    return lambda row: row.get(column)


def _prompt(column: str, columns: Mapping[str, str]) -> Text:
    extra = columns.get("input") if column.lower() == "instruction" else None

    def take(row: Row) -> str | None:
        more = row.get(extra) if extra else None
        return f"{row[column]}\n\n{more}" if more else row.get(column)

    return take


def _turn(column: str, index: int) -> Text:
    """The user's first turn (0) or the answer to it (1)."""

    def take(row: Row) -> str | None:
        turns = [_role_and_text(turn, i) for i, turn in enumerate(row.get(column) or [])]
        roles = [role for role, _ in turns]
        first = next((i for i, role in enumerate(roles) if role in USER), len(turns))
        found = turns[first + index : first + index + 1]
        if not found or (index and found[0][0] not in ASSISTANT):
            return None
        system = [text for role, text in turns[:first] if role == "system" and text]
        return "\n\n".join([*system, found[0][1]]) if index == 0 else found[0][1]

    return take


def _role_and_text(turn: Any, place: int) -> tuple[str, str]:
    if isinstance(turn, Mapping):
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        return str(role), text if isinstance(text, str) else ""
    return ("assistant" if place % 2 else "user"), str(turn)  # a bare list of texts


def _matches(row: Row, wanted: Mapping[str, object], columns: Mapping[str, str]) -> bool:
    """Values are compared as text, because a csv file has no other type."""
    return all(
        str(row.get(_named(columns, name))).lower() == str(value).lower()
        for name, value in wanted.items()
    )


def read_rows(file: Path) -> list[Any]:
    """The rows of a file as they are.

    Raises:
        WorkbenchError: no such file, or one that cannot be read.
    """
    if not file.is_file():
        raise WorkbenchError(f"there is no file {str(file)!r}.")
    if file.suffix[1:] not in FORMATS:
        raise WorkbenchError(f"{file} is not a .{', .'.join(FORMATS)} file.")
    try:
        return FORMATS[file.suffix[1:]](file)
    except (ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise WorkbenchError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error


def _csv(file: Path) -> list[Any]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines, strict=True))


def _json(file: Path) -> list[Any]:
    rows = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"expected a list of rows, found {type(rows).__name__}")
    return rows


def _jsonl(file: Path) -> list[Any]:
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _parquet(file: Path) -> list[Any]:
    return pyarrow.parquet.read_table(file).to_pylist()


FORMATS: dict[str, Callable[[Path], list[Any]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
"""File suffix to the function that reads its rows."""
