"""The header of a run: `run.json`, alone enough to list a run, compare it and make it again."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from workbench.errors import InvalidValueError
from workbench.files import Lock

SCHEMA = 2
State = Literal["running", "finished", "failed", "interrupted", "corrupt"]
Kind = Literal["immunise", "attack", "unknown"]
HEADER = "run.json"
WRITER = ".writer"
"""The lock that a run's writer holds."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,119}")


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """What a run is: everything needed to list it, compare it and make it again."""

    schema: int = SCHEMA
    id: str
    kind: Kind
    """`immunise` (a defence or an untouched start) or `attack`; `unknown` when unreadable."""
    model: str = ""
    """The model the arm starts from, e.g. `lab:aligned`."""
    arm: str = ""
    """The line of the table this run belongs to: a defence, its control, or `undefended`."""
    defence: dict[str, Any] | None = None
    """Name and configuration of the defence; None for the undefended arm."""
    attack: dict[str, Any] | None = None
    """Name and configuration of the attack; None for an immunisation."""
    probe: dict[str, Any] | None = None
    """Name and configuration of the probe, for runs that only looked at a checkpoint."""
    seed: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    """What the run depends on: config, data, start (weights), tokenizer, code, libraries."""
    modules: list[str] = field(default_factory=list)
    """The workbench modules whose code, with all that they import, `hashes["code"]` is of."""
    template: str | None = None
    """The chat template (Jinja) of all its texts; None where the first schema did not keep it."""
    parents: list[str] = field(default_factory=list)
    """Ids of the runs this one starts from."""
    state: State = "running"
    created: str = ""
    finished: str | None = None
    seconds: float | None = None
    """Wall time of the attempt that ended the run."""
    versions: dict[str, str] = field(default_factory=dict)
    """Full versions of the libraries, for the record; majors are in `hashes`."""
    git: dict[str, Any] | None = None
    """Commit and whether the tree was dirty; None outside a repository."""
    error: str | None = None
    """Why the run failed or cannot be read."""


def run_id(stem: str, *depends_on: object) -> str:
    """A readable id that differs whenever something the run depends on differs.

    Args:
        stem: the readable part, e.g. `vaccine-s0` or `vaccine-s0.sft-s0`.
        *depends_on: JSON values: hashes, ids of parents.
    """
    text = json.dumps([stem, *depends_on], sort_keys=True, allow_nan=False)
    return checked_id(f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def checked_id(run: str) -> str:
    """The id, if it can be the name of a run folder.

    Raises:
        InvalidValueError: it could lead outside the store, or be hidden, or is too long.
    """
    if not NAME.fullmatch(run):
        raise InvalidValueError(
            f"{run!r:.150} cannot be a run's id: use up to 120 letters, digits and _ . + = -, "
            "starting with a letter or a digit."
        )
    return run


def load_header(folder: Path) -> RunHeader:
    """The header of a folder; a run whose writer is gone is interrupted."""
    header = parse_header(folder)
    if header.state == "running" and not Lock(folder / WRITER).held():
        header = parse_header(folder)  # it may have finished between the two looks
        if header.state == "running":
            return replace(header, state="interrupted", error="its process ended without a word")
    return header


def parse_header(folder: Path) -> RunHeader:
    """The header as it is written; state `corrupt` and the reason when it cannot be read."""
    try:
        data = json.loads((folder / HEADER).read_bytes())
        return _checked_header(data, folder.name)
    except FileNotFoundError:
        why = f"{folder} has no {HEADER}: its writer was killed as it began, or this is no run."
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        why = f"{folder / HEADER} cannot be read: {error}."
    return RunHeader(id=folder.name, kind="unknown", state="corrupt", error=why)


def _checked_header(data: Any, name: str) -> RunHeader:
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    if isinstance(version := data.get("schema"), int) and version > SCHEMA:
        raise ValueError(
            f"it was written by a newer workbench (schema {version}, this one knows {SCHEMA}); "
            "upgrade the workbench"
        )
    header = RunHeader(**data)
    for key, annotation in get_type_hints(RunHeader).items():
        if not _fits(getattr(header, key), annotation):
            raise ValueError(f"{key!r} is {getattr(header, key)!r:.60}")
    if header.id != name:
        raise ValueError(f"it describes run {header.id!r:.60}, but the folder is called {name!r}")
    return header


def _fits(value: object, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if origin in (dict, list) or isinstance(annotation, type):
        return isinstance(value, origin or annotation) and not isinstance(value, bool)
    return value is None or any(
        _fits(value, part) for part in get_args(annotation) if part is not type(None)
    )
