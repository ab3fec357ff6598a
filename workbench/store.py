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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd

from workbench import tables
from workbench.errors import RunError, StoreBusyError, UnknownNameError
from workbench.files import Lock, now
from workbench.headers import (
    HEADER,
    NAME,
    WRITER,
    RunHeader,
    checked_id,
    load_header,
    parse_header,
    run_id,
)
from workbench.rows import Row
from workbench.run_writer import EVENTS, STATUS, RunWriter

__all__ = ["RunHeader", "RunWriter", "Store", "run_id"]

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

    def require_writable(self) -> None:
        """Find out before the work whether its runs can be written; nothing is made.

        Raises:
            RunError: they cannot.
        """
        there = next(x for x in (self.root, *self.root.absolute().parents) if x.exists())
        try:
            TemporaryFile(dir=there).close()
        except OSError as error:
            raise _unwritable(self.root, error) from error

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
            raise _unwritable(folder, error) from error
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
            raise _unwritable(self.root, error) from error
        if not taken:
            raise StoreBusyError(
                f"the store {self.root} is in use by {lock.holder()}. Wait for it to end or stop "
                "it (finished work is kept), or give this study another --store."
            )
        try:
            yield
        finally:
            lock.release()


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write to {folder}: {error.strerror or error}. Choose another store or make the "
        "folder writable."
    )


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
