"""Files that are wholly old or wholly new, and locks that die with their holder.

Both lean on the operating system, so a process that is killed at any moment leaves nothing half
written under a file's own name and no lock behind (POSIX: rename and flock).
"""

import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from workbench.errors import RunError

PARTIAL = ".partial-"
"""How the name of a file that is still being written begins."""


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_the_way(folder: Path) -> Path | None:
    """The file that stands where a folder is to be made, or above it; None where there is none."""
    there = next(x for x in (folder, *folder.absolute().parents) if x.exists())
    return None if there.is_dir() else there


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write in; it takes the place of `path` when the block ends without an error.

    Args:
        path: the file to make or replace; its folder exists.
        durable: wait until the disk has it. Without, a power cut may bring the old file back.

    Raises:
        RunError: the file cannot be written (disk full, read-only, no permission).
    """
    partial = None
    try:
        handle, partial = tempfile.mkstemp(prefix=PARTIAL + path.name, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched. "
            "Free some space or make the folder writable, then run the same command again."
        ) from error
    finally:
        if partial:
            with suppress(OSError):
                os.unlink(partial)


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Replace a JSON file in one go."""
    with replacing(path, durable=durable) as file:
        file.write(json.dumps(value, indent=1).encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """An exclusive lock on a file, for as long as this process holds it and lives.

    The file names its holder (pid, host, start). It stays behind when the lock is released: what
    counts is the lock, not the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; True when it is ours."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": now()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
        self._file = os.fdopen(handle, "rb+")
        return True

    def release(self) -> None:
        """Let go of the lock; harmless when it is not held."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may hold the same file open
            self._file.close()
            self._file = None

    def holder(self) -> str:
        """Who holds the lock, or held it last, in words."""
        try:
            who = json.loads(self.path.read_bytes())
            return f"process {who['pid']} on {who['host']}, started {who['start']}"
        except (OSError, ValueError, LookupError, TypeError):
            return "an unknown process"

    def held(self) -> bool:
        """Whether anybody, this process included, holds the lock now."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False
