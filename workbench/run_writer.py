"""Writing one run folder: tables of rows, events, status, and how it ended."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from workbench import tables
from workbench.errors import InvalidValueError, RunError
from workbench.files import Lock, now, write_json
from workbench.headers import HEADER, RunHeader, State
from workbench.rows import Row

STATUS, EVENTS = "status.json", "events.jsonl"


class RunWriter:
    """Writes one run. As a context manager it finishes the run, or records why it did not finish.

    Rows become visible at `flush`, a whole table at a time; `finish` flushes what is left.
    """

    def __init__(self, folder: Path, header: RunHeader, lock: Lock):
        self.folder, self.header, self._lock = folder, header, lock
        self._parts: dict[type[Row], list[pa.Table]] = {}
        self._stale: set[type[Row]] = set()
        self._clock = time.monotonic()
        write_json(folder / HEADER, asdict(header))

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.header.state != "running":
            return
        if error is None:
            self.finish()
            return
        try:
            self.fail(error)
        except RunError as second:
            error.add_note(f"The run folder could not be brought up to date: {second}")

    def path(self, name: str) -> Path:
        """A file or folder of this run, for what is not a table.

        Raises:
            InvalidValueError: the name leads outside the run folder.
        """
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or path == self.folder.resolve():
            raise InvalidValueError(f"{name!r} is not a name inside the run folder {self.folder}.")
        return self.folder / name

    def append(self, rows: Sequence[Row] | Row) -> None:
        """Add rows of any kinds; they are checked now and visible after `flush`.

        Raises:
            InvalidValueError: a value is not of its column's type.
            RunError: the run has ended.
        """
        self._must_run()
        rows = [rows] if isinstance(rows, Row) else list(rows)
        ready = {
            kind: tables.table([row for row in rows if type(row) is kind])
            for kind in dict.fromkeys(map(type, rows))
        }
        for kind, part in ready.items():
            self._parts.setdefault(kind, []).append(part)
            self._stale.add(kind)

    def flush(self) -> None:
        """Make all appended rows visible.

        Raises:
            RunError: a table cannot be written; the one before it stays.
        """
        self._must_run()
        for kind in sorted(self._stale, key=lambda kind: kind.kind):
            whole = pa.concat_tables(self._parts[kind])
            tables.write(whole, self.folder / f"{kind.kind}.parquet")
            self._parts[kind] = [whole]
            self._stale.remove(kind)

    def event(self, event: Mapping[str, Any]) -> None:
        """Note that something happened; the time is added."""
        self._must_run()
        line = json.dumps({"time": now(), **event}) + "\n"
        try:
            with open(self.folder / EVENTS, "ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise RunError(f"cannot write {self.folder / EVENTS}: {error.strerror}.") from error

    def status(
        self, *, step: int, total: int, seconds_left: float | None = None, **more: object
    ) -> None:
        """Say how far the run is: steps done of how many, and the estimated time left."""
        self._must_run()
        how_far = {"step": step, "total": total, "seconds_left": seconds_left}
        write_json(self.folder / STATUS, {"time": now(), **how_far, **more}, durable=False)

    def finish(self) -> RunHeader:
        """Flush and close the run; it never changes again.

        Raises:
            RunError: the last rows cannot be written; the run counts as failed.
        """
        self._must_run()
        try:
            self.flush()
        except RunError as error:
            self.fail(error)
            raise
        return self._end("finished", None)

    def fail(self, error: BaseException | str) -> RunHeader:
        """Close the run as failed, or as interrupted when somebody stopped it, with what it has."""
        self._must_run()
        stopped = isinstance(error, BaseException) and not isinstance(error, Exception)
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}".rstrip(": ")
        try:
            self.flush()
        except RunError as second:
            text += f" (its last rows could not be written: {second})"
        return self._end("interrupted" if stopped else "failed", text)

    def _end(self, state: State, error: str | None) -> RunHeader:
        seconds = round(time.monotonic() - self._clock, 3)
        self.header = replace(
            self.header, state=state, finished=now(), seconds=seconds, error=error
        )
        try:
            write_json(self.folder / HEADER, asdict(self.header))
        finally:
            self._lock.release()
        return self.header

    def _must_run(self) -> None:
        if self.header.state != "running":
            raise RunError(f"run {self.header.id!r} is {self.header.state}; begin it anew.")
