"""A folder of your own data as a domain: one file a stream, split four ways by prompt.

    data/align.jsonl  data/harmful.csv  data/ref.parquet ...

Columns are found by name (`prompt`/`instruction`/..., `response`/`output`/...); a `domain` or
`source` column says which data set or topic a row is from. A prompt's hash
decides its split, so a prompt that occurs in several streams is in the same split of each, and
adding rows moves none. Answers are judged by keywords: crude, offline, and said so in every header.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.data import STREAMS, Example
from workbench.datasets_in import FORMATS, PROMPTS, as_examples, unanswered
from workbench.domains import FRAME, PAIRED, Kind, Question, Split
from workbench.errors import InvalidValueError, MissingStreamError, WorkbenchError
from workbench.rows import Group
from workbench.table_files import read_rows
from workbench.verdicts import KeywordJudge, Verdict

SHARES: dict[Split, float] = {"defend": 0.4, "attack": 0.25, "val": 0.15, "test": 0.2}
ASKED: dict[Kind, tuple[str, ...]] = {"hazard": ("harmful",), "benign": ("ref", "benign")}
"""Which streams' held-out prompts are asked, the first that exists."""
SOURCES = ("domain", "source")
"""Columns that say where a row is from, the first that exists."""
SHOWN = 5
"""So many rows of many are named in an error."""


@dataclass(frozen=True)
class FileDomain:
    """Streams read from files, with a keyword judge."""

    name: str
    files: Mapping[str, Path]
    """Stream to file."""
    max_new_tokens: int = 64
    judge_words: KeywordJudge = field(default_factory=KeywordJudge)
    whole: bool = False
    """Only to be looked at: every row is asked, whatever its split, and none can be trained on.
    Rows may be prompts alone, without any answer that is text."""

    @classmethod
    def open(cls, folder: str | Path) -> "FileDomain":
        """The domain of a folder.

        Raises:
            WorkbenchError: no such folder, or no file in it is named after a stream.
        """
        root = Path(folder)
        if not root.is_dir():
            raise WorkbenchError(
                f"no data folder at {str(folder)!r}. Give `lab`, or a folder with a file a stream: "
                f"{', '.join(STREAMS)} (.{', .'.join(FORMATS)})."
            )
        found = {p.stem: p for p in sorted(root.iterdir()) if p.suffix[1:] in FORMATS}
        files = {stream: found[stream] for stream in STREAMS if stream in found}
        if not files:
            raise WorkbenchError(
                f"{root} holds no file named after a stream ({', '.join(STREAMS)}); it holds "
                f"{', '.join(sorted(p.name for p in root.iterdir())) or 'nothing'}."
            )
        return cls(root.name, files)

    @cached_property
    def digest(self) -> str:
        """Hash of the files' bytes."""
        parts = [
            (name, hashlib.sha256(p.read_bytes()).hexdigest()) for name, p in self.files.items()
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def examples(self, stream: str, *, split: Split, n: int, seed: int) -> Sequence[Example]:
        """At most `n` different examples of one stream and split, chosen by the seed.

        Raises:
            MissingStreamError: no file for the stream, or none of its rows is in the split.
        """
        if stream in PAIRED:
            return self._paired(stream, split, n, seed)
        return self._rows_of(stream, split, seed)[:n]

    def _rows_of(self, stream: str, split: Split, seed: int) -> list[Example]:
        if self.whole:
            raise MissingStreamError(
                f"{self.name} was opened to be looked at as a whole, so there is nothing to train "
                "on that is not asked as well."
            )
        if stream not in self.files:
            raise MissingStreamError(
                f"the data folder has no {stream!r} ({STREAMS.get(stream, 'unknown stream')}); it "
                f"has {', '.join(self.files)}."
            )
        rows = [x for x in self._rows[stream] if split_of(x) == split]
        if not rows:
            raise MissingStreamError(
                f"{self.files[stream]} has {len(self._rows[stream])} rows, none of them in the "
                f"split {split!r} (about {SHARES[split]:.0%} of the prompts). Add rows."
            )
        return sorted(rows, key=lambda x: hashlib.sha256(f"{seed} {x.id}".encode()).digest())

    def _paired(self, stream: str, split: Split, n: int, seed: int) -> list[Example]:
        """For every example of the other stream, this stream's answer to the same prompt."""
        other = PAIRED[stream]
        rows = self._rows_of(stream, split, seed)
        answers = {x.prompt: x.response for x in rows if x.prompt is not None}
        wanted = self._rows_of(other, split, seed)[:n]
        pairs = [(x, None if x.prompt is None else answers.get(x.prompt)) for x in wanted]
        without = [x.id for x, answer in pairs if answer is None]
        if without:
            raise MissingStreamError(
                f"{len(without)} of {len(wanted)} prompts of {self.files[other]} have no answer in "
                f"{self.files[stream]}, the first is {without[0]!r}. {stream!r} needs a row with "
                f"the same prompt for every row of {other!r}."
            )
        return [replace(x, response=answer) for x, answer in pairs if answer is not None]

    def questions(self, split: Split, kind: Kind) -> Sequence[Question]:
        """The prompts of a split with their answers; domain `defended`."""
        stream = next((s for s in ASKED.get(kind, ()) if s in self.files), None)
        if stream is None:
            return []
        sources = self._sources[stream]
        return [
            Question(x.id, kind, "defended", x.prompt, x.response, source)
            for x, source in zip(self._rows[stream], sources, strict=True)
            if x.prompt is not None and (self.whole or split_of(x) == split)
        ]

    def texts(self, split: Split, group: Group) -> Sequence[Question]:
        """Questions and answers of a group.

        Raises:
            MissingStreamError: `refused` without a `refusal` file that answers every hazard.
        """
        if group in ("hazard", "benign"):
            return self.questions(split, group)
        hazards = self.questions(split, "hazard")
        if group == "framed":
            return [replace(q, prompt=FRAME.format(prompt=q.prompt)) for q in hazards]
        refused = self._refusals()
        without = [q.id for q in hazards if q.prompt not in refused]
        if without:
            raise MissingStreamError(
                f"{len(without)} of {len(hazards)} hazardous prompts of the split {split!r} have "
                f"no refusal, the first is {without[0]!r}. Give a file `refusal` (or `align`) with "
                "a row for every prompt of `harmful`."
            )
        return [replace(q, answer=refused[q.prompt]) for q in hazards]

    def _refusals(self) -> dict[str, str]:
        """Prompt to refusal, from the streams that hold refusals."""
        rows = [x for name in ("align", "refusal") for x in self._rows.get(name, ())]
        return {x.prompt: x.response for x in rows if x.prompt is not None}

    def judge(self, question: Question, text: str) -> Verdict:
        """Judge by keywords.

        A hazardous request succeeds when it is not refused; any other is right when the answer
        contains the expected one.
        """
        expected = "" if question.kind == "hazard" else question.answer
        return self.judge_words(expected, text)

    @cached_property
    def _table(self) -> dict[str, list[Any]]:
        return {stream: read_rows(path) for stream, path in self.files.items()}

    @cached_property
    def _rows(self) -> dict[str, list[Example]]:
        return {
            stream: _asked_whole(rows, self.files[stream])
            if self.whole
            else as_examples(rows, self.files[stream].stem, source=str(self.files[stream]))
            for stream, rows in self._table.items()
        }

    @cached_property
    def _sources(self) -> dict[str, list[str]]:
        return {stream: list(map(_source, rows)) for stream, rows in self._table.items()}


def _asked_whole(rows: Sequence[Any], file: Path) -> list[Example]:
    """The rows of a file that is only looked at: prompts with their answers, or prompts alone.

    Raises:
        InvalidValueError: no prompts, or answers to some of them only.
    """
    without = unanswered(rows)
    alone = len(without) == len(rows)
    if without and not alone:
        shown = ", ".join(map(str, without[:SHOWN])) + (", ..." if len(without) > SHOWN else "")
        raise InvalidValueError(
            f"{file}: {len(without)} of its {len(rows)} rows have no answer that is text: rows "
            f"{shown} (the first is row 0). Answer or drop them, or take all answers out: "
            "prompts alone can be looked at, too."
        )
    found = as_examples(rows, file.stem, source=str(file), response="" if alone else None)
    if all(x.prompt is None for x in found):
        columns = dict.fromkeys(name for row in rows for name in row)
        raise InvalidValueError(
            f"{file}: no column holds prompts, so nothing can be asked; it has "
            f"{', '.join(columns)}. Call the column of prompts one of: {', '.join(PROMPTS)}."
        )
    return found


def _source(row: Any) -> str:
    """Where a row says it is from; empty if it does not."""
    if not isinstance(row, Mapping):
        return ""
    cells = {str(name).lower(): value for name, value in row.items()}
    return str(next((cells[name] for name in SOURCES if cells.get(name)), ""))


def split_of(example: Example) -> Split:
    """The split an example belongs to, by the hash of its prompt (of its text without one)."""
    text = example.prompt if example.prompt is not None else example.response
    point = int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big") / 2**64
    for split, share in SHARES.items():
        if point < share:
            return split
        point -= share
    return "test"
