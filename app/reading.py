"""A store as the app reads it: listed by headers alone, opened run by run, kept while unchanged.

Nothing is written. Whatever is kept is keyed by the time and size of the file it came from, so a
study that is still running shows up at the next look.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from workbench import tables
from workbench.errors import RunError
from workbench.figures import Frames, arm_names, arm_order, newest
from workbench.headers import HEADER, NAME, RunHeader, load_header
from workbench.rows import Row
from workbench.store import Store

HEADERS_KEPT, TABLES_KEPT, FRAMES_KEPT = 20_000, 600, 24


@dataclass(frozen=True)
class Listing:
    """What the headers of a store say."""

    runs: tuple[RunHeader, ...]
    """All runs, oldest first; unreadable ones too."""
    names: dict[str, tuple[str, str]]
    """Run to its arm and attack, told apart by the settings in which same-named ones differ."""
    shown: tuple[RunHeader, ...]
    """Finished runs, one for each arm, attack and seed."""
    left_out: dict[str, str]
    """Every other run, and why it is not shown."""

    @property
    def arms(self) -> list[str]:
        """Arms with a finished run: undefended first, a control after its defence."""
        return sorted({self.names[run.id][0] for run in self.shown}, key=arm_order)

    @property
    def attacks(self) -> list[str]:
        """Names of the finished attacks, the most frequent first."""
        found = [self.names[run.id][1] for run in self.shown if run.kind == "attack"]
        return sorted(set(found), key=lambda name: (-found.count(name), name))

    def of(self, arms: Iterable[str]) -> list[RunHeader]:
        """The shown runs of some arms."""
        wanted = set(arms)
        return [run for run in self.shown if self.names[run.id][0] in wanted]

    def unshown(self, arms: Iterable[str]) -> dict[str, str]:
        """The runs of some arms that are not shown, and why.

        An unfinished run goes by its plain name, so it belongs to every arm of that name.
        """
        wanted = {name for arm in arms for name in (arm, arm.split(" ")[0])}
        return {run: why for run, why in self.left_out.items() if self.names[run][0] in wanted}


class Reader:
    """Reads one store for as long as the app runs. Used by several threads."""

    def __init__(self, root: str | Path):
        self.store = Store(root)
        self._headers, self._tables = _Kept(HEADERS_KEPT), _Kept(TABLES_KEPT)
        self._frames, self._derived = _Kept(FRAMES_KEPT), _Kept(FRAMES_KEPT)
        self._listings = _Kept(1)

    def listing(self) -> Listing:
        """What there is now."""
        root = self.store.root
        folders = [p for p in root.iterdir() if NAME.fullmatch(p.name)] if root.is_dir() else []
        found = [(self._header(p), _signature(p / HEADER)) for p in folders if p.is_dir()]
        found.sort(key=lambda each: (each[0].created, each[0].id))
        key = tuple((run.id, run.state, signature) for run, signature in found)
        return self._listings.get(key, partial(_listing, [run for run, _ in found]))

    def _header(self, folder: Path) -> RunHeader:
        """A header; of a run that is not finished always anew, for its writer may have died."""
        key = (folder.name, _signature(folder / HEADER))
        header = self._headers.get(key, partial(load_header, folder))
        return load_header(folder) if header.state == "running" else header

    def frames(self, listing: Listing, arms: Sequence[str], needs: Sequence[type[Row]]) -> Frames:
        """The rows of some arms, as figures take them."""
        runs, kinds = listing.of(arms), tuple(dict.fromkeys(needs))
        files = [(run, kind, self._file(run.id, kind)) for run in runs for kind in kinds]
        key = (tuple(arms), tuple((run.id, k.kind, _signature(f)) for run, k, f in files))
        return self._frames.get(key, partial(self._load, listing, arms, runs, kinds))

    def kept(self, frames: Frames, what: Hashable, make: Callable[[Frames, Any], Any]) -> Any:
        """What is made from frames, once for as long as they are kept."""
        return self._derived.get((id(frames), what), lambda: (frames, make(frames, what)))[1]

    def _load(
        self,
        listing: Listing,
        arms: Sequence[str],
        runs: Sequence[RunHeader],
        kinds: Sequence[type[Row]],
    ) -> Frames:
        left_out, kept = listing.unshown(arms), []
        parts: dict[type[Row], list[tuple[str, Any]]] = {kind: [] for kind in kinds}
        for run in runs:
            try:
                read = {kind: self._table(run.id, kind) for kind in kinds}
            except RunError as error:
                left_out[run.id] = str(error)
                continue
            kept.append(run)
            for kind, table in read.items():
                parts[kind].append((run.id, table))
        return Frames(
            runs=tuple(kept),
            tables={k: _named(tables.frame(k, part), listing) for k, part in parts.items()},
            left_out=left_out,
            source=str(self.store.root),
        )

    def _table(self, run: str, kind: type[Row]) -> Any:
        file = self._file(run, kind)
        key = (run, kind.kind, _signature(file))
        return self._tables.get(key, partial(tables.read, kind, file))

    def _file(self, run: str, kind: type[Row]) -> Path:
        return self.store.folder(run) / f"{kind.kind}.parquet"


class _Kept:
    """The most recently used values, at most so many."""

    def __init__(self, most: int):
        self._most, self._values, self._lock = most, OrderedDict[Hashable, Any](), Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def _listing(runs: Sequence[RunHeader]) -> Listing:
    finished = [run for run in runs if run.state == "finished"]
    shown, repeated = newest(finished)
    unfinished = {r.id: r.error or f"it is {r.state}" for r in runs if r.state != "finished"}
    names = {run.id: (run.arm, (run.attack or {}).get("name", "")) for run in runs}
    return Listing(tuple(runs), names | arm_names(finished), tuple(shown), unfinished | repeated)


def _named(table: Any, listing: Listing) -> Any:
    """A table with the arm, attack and seed of each row's run, named as in the whole store."""
    arm, attack = ({run: names[i] for run, names in listing.names.items()} for i in (0, 1))
    seeds = {run.id: run.seed for run in listing.shown}
    for place, (name, values) in enumerate((("arm", arm), ("attack", attack), ("seed", seeds)), 1):
        table.insert(place, name, table["run"].map(values))
    return table


def _signature(path: Path) -> tuple[int, int] | None:
    """Time and size of a file: another one means that it was replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
