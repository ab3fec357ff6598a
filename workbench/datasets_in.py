"""Examples from files and from Hugging Face data sets, whose columns are found by name.

The names are those of data sets in common use: BeaverTails, AdvBench, HarmBench, StrongREJECT,
JailbreakBench, Alpaca, GSM8K, TOFU, circuit breakers, and files of messages. Text is taken as it
stands in the file: nothing is guessed to be a number or a missing value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

from workbench.conversations import answered, asked, is_text
from workbench.data import Example
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.prompt_sets import PromptSet, read_prompt_set
from workbench.prompt_sets import Text as PanelText
from workbench.table_files import FORMATS, read_rows

__all__ = ["FORMATS", "as_examples", "read_examples", "read_texts", "require_table"]

PROMPTS = ("prompt", "instruction", "question", "goal", "behavior", "forbidden_prompt", "query")
RESPONSES = ("response", "output", "completion", "answer", "target")
TEXTS = ("text", "txt_chunk", "text_chunk")
"""Plain text, learnt without a prompt."""
MESSAGES = ("messages", "conversations", "turns")
"""A conversation: its first user turn (after the system's, if any) and the answer to it."""

Row = Mapping[str, Any]
Text = Callable[[Row], Any]
"""Takes one side of an example from a row: text, or whatever stands there instead of it."""


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
    version: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    group: str | None = None,
) -> PromptSet:
    """A panel from a file: a prompt set as it was saved, or a table of prompts and responses.

    Args:
        path: as in `read_examples`, or a prompt set's own file.
        name: of the set; by default the file's.
        version: of the set; by default `1`.
        prompt: the column of prompts, as in `read_examples`.
        response: the column of responses, likewise.
        group: the column that says what kind of text a row is; by default `group`, if there is one.

    Raises:
        WorkbenchError: no such file, or one that cannot be read.
        UnknownNameError: a column was named that the file does not have.
        InvalidValueError: no column was recognised, a row does not hold text there, or a saved
            set was given another name, version or columns.
    """
    file = Path(path)
    if (saved := read_prompt_set(file)) is not None:
        given = {"name": name, "version": version, "prompt": prompt, "response": response}
        require_table(f"{file}, a saved prompt set,", **given, group=group)
        return saved
    rows = _mappings(read_rows(file))
    if not rows:
        raise InvalidValueError(f"{file} holds no rows.")
    examples = as_examples(rows, file.stem, prompt=prompt, response=response, source=str(file))
    known = _by_lower_case(rows)
    column = _named(known, group) if group else known.get("group")
    found = [None if column is None else row.get(column) for row in rows]
    kinds = [_kind(value, f"{file}, row {i}") for i, value in enumerate(found)]
    texts = [PanelText(x.id, x.prompt, x.response, k) for x, k in zip(examples, kinds, strict=True)]
    return PromptSet(name or file.stem, version or "1", tuple(texts))


def _kind(value: Any, where: str) -> str:
    if isinstance(value, Mapping | list):
        raise InvalidValueError(f"{where}: its group is {short(value)}; expected a short text.")
    return "" if value is None else str(value)


def require_table(source: str, **given: str | None) -> None:
    """Refuse what only a table of rows can be told.

    Args:
        source: what is no such table, in words.
        given: name, version or columns that were asked for; None where nothing was.

    Raises:
        InvalidValueError: something was given; the message names it.
    """
    idle = [f"{what}={value!r}" for what, value in given.items() if value is not None]
    if idle:
        raise InvalidValueError(
            f"{source} has a name, a version and columns of its own, so {', '.join(idle)} would "
            "have no effect. Leave it out, or give a table of rows."
        )


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
    rows = _mappings(rows)
    columns = _by_lower_case(rows)
    ask, answer = _columns(columns, prompt, response, source)
    kept = [(i, row) for i, row in enumerate(rows) if _matches(row, where or {}, columns)]
    if not kept:
        raise InvalidValueError(f"{source}: none of its {len(rows)} rows is left to read.")
    return [_example(f"{name}-{i}", row, ask, answer, f"{source}, row {i}") for i, row in kept]


def unanswered(rows: Iterable[Any]) -> list[int]:
    """Which rows hold no response that is text, where responses are looked for by name."""
    rows = _mappings(rows)
    columns = _by_lower_case(rows)
    talk = _known(columns, MESSAGES)
    column = talk or _known(columns, RESPONSES)
    cells = [row.get(column) if column else None for row in rows]
    found = map(answered, cells) if talk else cells
    return [i for i, response in enumerate(found) if not is_text(response)]


def _mappings(rows: Iterable[Any]) -> list[Row]:
    """A row that has no columns is a conversation."""
    return [row if isinstance(row, Mapping) else {MESSAGES[0]: row} for row in rows]


def _by_lower_case(rows: Iterable[Row]) -> dict[str, str]:
    """The columns' names, by themselves in lower case."""
    return {name.lower(): name for row in rows for name in row if isinstance(name, str)}


def _example(name: str, row: Row, ask: Text | None, answer: Text | None, where: str) -> Example:
    texts = [None if take is None else take(row) for take in (ask, answer)]
    for side, take, text in zip(("prompt", "response"), (ask, answer), texts, strict=True):
        if take is not None and not is_text(text):
            raise InvalidValueError(f"{where}: its {side} is {short(text)}; expected text.")
    return Example(name, texts[0], texts[1] or "")


def _columns(
    columns: Mapping[str, str], prompt: str | None, response: str | None, source: str
) -> tuple[Text | None, Text | None]:
    """How to take prompt and response from a row; None for a side that there is not."""
    talk = _known(columns, MESSAGES)
    if talk and prompt is None and response in (None, ""):
        answer = (lambda row: answered(row.get(talk))) if response is None else None
        return (lambda row: asked(row.get(talk))), answer
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

    def take(row: Row) -> Any:
        text, more = row.get(column), row.get(extra) if extra else None
        if more in (None, "") or not is_text(text):
            return text
        return f"{text}\n\n{more}" if isinstance(more, str) else more

    return take


def _matches(row: Row, wanted: Mapping[str, object], columns: Mapping[str, str]) -> bool:
    """Values are compared as text, because a csv file has no other type."""
    return all(
        str(row.get(_named(columns, name))).lower() == str(value).lower()
        for name, value in wanted.items()
    )
