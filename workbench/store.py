"""Run folders on disk: what was measured, by which configuration and code, and how far it got.

    store/<run id>/  run.json                header: alone enough to list a run
                     <row kind>.parquet      one table a kind of row (`workbench.rows`)
                     events.jsonl            what happened, one JSON object a line
                     status.json             how far a running run is
                     checkpoint/, activations/, ...   owned by whoever writes them

A finished run never changes. A run that was interrupted is redone under the same id: its tables
are cleared; `checkpoint/` and `activations/` stay, so that training and recording go on from them.
While a run is being written its writer holds a lock that dies with the process, so a killed run is
known as such.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from workbench import tables
from workbench.errors import InvalidValueError, RunError, StoreBusyError, UnknownNameError
from workbench.files import Lock, now, write_json
from workbench.headers import (
    HEADER,
    NAME,
    WRITER,
    RunHeader,
    State,
    checked_id,
    load_header,
    parse_header,
    run_id,
)
from workbench.rows import Row

__all__ = ["RunHeader", "RunWriter", "Store", "run_id"]

STATUS, EVENTS = "status.json", "events.jsonl"
CHECKPOINT, ACTIVATIONS = "checkpoint", "activations"


class Store:
    """A folder of run folders."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise RunError(f"{self.root} is a file; a store is a folder. Choose another path.")

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def runs(self) -> list[RunHeader]:
        """All runs by age, from their headers alone; unreadable folders have state `corrupt`."""
        if not self.root.is_dir():
            return []
        folders = [p for p in self.root.iterdir() if p.is_dir() and NAME.fullmatch(p.name)]
        return sorted(map(load_header, folders), key=lambda run: (run.created, run.id))

    def find(self, **wanted: object) -> list[RunHeader]:
        """Runs whose header has these values, e.g. `find(kind="attack", state="finished")`.

        Raises:
            UnknownNameError: headers have no such field.
        """
        known = [f.name for f in fields(RunHeader)]
        for name in wanted:
            if name not in known:
                raise UnknownNameError("header field", name, known)
        runs = self.runs()
        return [r for r in runs if all(getattr(r, k) == v for k, v in wanted.items())]

    def get(self, run: str) -> RunHeader:
        """One run's header.

        Raises:
            UnknownNameError: there is no such run.
        """
        folder = self.folder(run)
        if not folder.is_dir():
            raise UnknownNameError("run", run, (r.id for r in self.runs()), f"Store: {self.root}.")
        return load_header(folder)

    def folder(self, run: str) -> Path:
        """Where a run is, or would be."""
        return self.root / checked_id(run)

    def read(self, kind: type[Row], runs: Iterable[str | RunHeader] | None = None) -> pd.DataFrame:
        """All rows of one kind, with the column `run`; list columns hold float32 arrays.

        Args:
            kind: the row class, e.g. `rows.Metric`.
            runs: ids or headers; None for every finished run.

        Raises:
            UnknownNameError: a run that is not in this store.
            RunError: a table is corrupt, or from another version.
        """
        chosen = self.find(state="finished") if runs is None else runs
        ids = [run.id if isinstance(run, RunHeader) else self.get(run).id for run in chosen]
        files = [(run, self.folder(run) / f"{kind.kind}.parquet") for run in dict.fromkeys(ids)]
        return tables.frame(kind, [(run, tables.read(kind, file)) for run, file in files])

    def status(self, run: str) -> dict[str, Any]:
        """How far a run was when it last said so; empty when it never did."""
        path = self.folder(run) / STATUS
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def events(self, run: str) -> list[dict[str, Any]]:
        """What happened in a run; a last line cut short by a kill is left out."""
        path = self.folder(run) / EVENTS
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError:
            return []
        return [event for line in lines if (event := _object(line)) is not None]

    def begin(self, header: RunHeader) -> "RunWriter":
        """Start writing a run, or start one again that did not finish.

        Raises:
            RunError: the run is finished, or its folder is corrupt or cannot be written.
            StoreBusyError: another process is writing this run.
        """
        folder = self.folder(header.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(folder / WRITER)
            taken = _patiently(lock)
        except OSError as error:
            raise RunError(
                f"cannot write to {folder}: {error.strerror or error}. Choose another store or "
                "make the folder writable."
            ) from error
        if not taken:
            raise StoreBusyError(
                f"run {header.id!r} is being written by {lock.holder()}. Wait for it to end, or "
                "stop it and run the same command again."
            )
        try:
            _clear(folder)
            return RunWriter(folder, replace(header, state="running", created=now()), lock)
        except BaseException:
            lock.release()
            raise

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for one study; it is free again when the block or the process ends.

        Raises:
            StoreBusyError: another process holds it.
            RunError: the store cannot be written.
        """
        lock = Lock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            taken = _patiently(lock)
        except OSError as error:
            raise RunError(
                f"cannot write to the store {self.root}: {error.strerror or error}. Choose "
                "another path or make the folder writable."
            ) from error
        if not taken:
            raise StoreBusyError(
                f"the store {self.root} is in use by {lock.holder()}. Wait for it to end or stop "
                "it (finished work is kept), or give this study another --store."
            )
        try:
            yield
        finally:
            lock.release()


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


def _patiently(lock: Lock) -> bool:
    """Take a lock, allowing for readers, who hold it for an instant to see whether it is held."""
    for _ in range(20):
        if lock.acquire():
            return True
        time.sleep(0.01)
    return False


def _clear(folder: Path) -> None:
    """Empty an unfinished run folder but for its lock and what training resumes from."""
    kept = (WRITER, CHECKPOINT, ACTIVATIONS)
    leftovers = [p for p in folder.iterdir() if p.name not in kept]
    if leftovers and (folder / HEADER).exists():
        header = parse_header(folder)
        if header.state == "finished":
            raise RunError(
                f"run {header.id!r} is finished and never changes. Read it, or delete {folder} "
                "to make it anew."
            )
        if header.state == "corrupt":
            raise RunError(f"{header.error} Delete {folder} to make the run anew.")
    elif any(p.suffix == ".parquet" for p in leftovers):
        raise RunError(f"{folder} holds tables but no {HEADER}. Delete it to make the run anew.")
    try:
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else os.unlink(path)
    except OSError as error:
        raise RunError(f"cannot clear the unfinished run {folder}: {error}.") from error


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
