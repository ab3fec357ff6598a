"""Named, versioned sets of prompts: the panels that recordings of different models share.

Two recordings can be laid side by side only if they are of the same texts. A set has a digest of
all it holds, and a digest of each text; both stand in the manifest of every recording made of it,
so that is known without keeping the texts beside the numbers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.errors import InvalidValueError, WorkbenchError
from workbench.files import replacing, write_json

COLUMNS = ("id", "prompt", "response", "group")
META = b"prompt_set"
SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=name == "prompt") for name in COLUMNS],
)


@dataclass(frozen=True)
class Text:
    """One prompt, the response to it, and the kind of text it is."""

    id: str
    prompt: str | None
    """None: the response is plain text, read without a prompt."""
    response: str = ""
    group: str = ""
    """E.g. `hazard` or `benign`."""

    @property
    def digest(self) -> str:
        """Hash of all of it."""
        return _hash([self.id, self.prompt, self.response, self.group])[:16]


@dataclass(frozen=True)
class PromptSet:
    """Texts under a name and a version; their order counts.

    Raises:
        InvalidValueError: no texts, or an id twice.
    """

    name: str
    version: str
    texts: tuple[Text, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidValueError(f"the prompt set {self.name!r} is empty; give at least a text.")
        seen: set[str] = set()
        for text in self.texts:
            if text.id in seen:
                raise InvalidValueError(
                    f"the prompt set {self.name!r} holds the id {text.id!r} twice; recordings are "
                    "lined up by id, so each needs its own."
                )
            seen.add(text.id)

    @cached_property
    def sha256(self) -> str:
        """Hash of all texts in their order; name and version do not count."""
        return _hash([text.digest for text in self.texts])

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a recording's manifest keeps of it."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "examples": {text.id: text.digest for text in self.texts},
        }

    def groups(self) -> dict[str, str]:
        """Id -> group."""
        return {text.id: text.group for text in self.texts}

    def save(self, path: str | Path) -> None:
        """Write a `.json` or `.parquet` file, which appears whole or not at all.

        Raises:
            InvalidValueError: another suffix.
            RunError: the file cannot be written.
        """
        file = Path(path)
        about = {"name": self.name, "version": self.version, "sha256": self.sha256}
        rows = [asdict(text) for text in self.texts]
        if file.suffix == ".json":
            write_json(file, about | {"prompts": rows})
        elif file.suffix == ".parquet":
            table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({META: json.dumps(about)}))
            with replacing(file) as out:
                pq.write_table(table, out)
        else:
            raise InvalidValueError(f"{file}: a prompt set is a .json or a .parquet file.")


def read_prompt_set(path: str | Path) -> PromptSet | None:
    """A prompt set from its file; None if the file is something else, such as a table of rows.

    Raises:
        WorkbenchError: it is a prompt set, and not what was written.
    """
    file = Path(path)
    try:
        found = _PARTS[file.suffix](file) if file.is_file() and file.suffix in _PARTS else None
    except (OSError, ValueError, RecursionError, pa.ArrowException):
        return None  # whoever reads tables of rows says what is wrong with it
    if found is None:
        return None
    about, rows = found
    try:
        made = PromptSet(about["name"], about["version"], tuple(Text(**row) for row in rows))
        whole = made.sha256 == about["sha256"]
    except (KeyError, TypeError, InvalidValueError) as error:
        raise WorkbenchError(f"{file} is no whole prompt set: {error}") from error
    if not whole:
        raise WorkbenchError(
            f"{file} was changed after it was written: its texts do not have the digest that it "
            f"states ({about['sha256']!s:.12}). Save it as a new version, or restore it."
        )
    return made


def _json(file: Path) -> tuple[Mapping[str, Any], Sequence[Any]] | None:
    found = json.loads(file.read_text(encoding="utf-8"))
    return (found, found["prompts"]) if isinstance(found, dict) and "prompts" in found else None


def _parquet(file: Path) -> tuple[Mapping[str, Any], Sequence[Any]] | None:
    schema = pq.read_schema(file)
    if META not in (schema.metadata or {}):
        return None
    return json.loads(schema.metadata[META]), pq.read_table(file, columns=[*COLUMNS]).to_pylist()


_PARTS = {".json": _json, ".parquet": _parquet}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()
