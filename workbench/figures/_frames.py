"""The rows a figure is made from, with the arm, attack and seed of their run beside each.

Runs that cannot be read (made by a newer workbench, corrupt, unfinished) are named, never opened;
of runs that repeat one another only the newest is shown.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from workbench import tables
from workbench.errors import RunError
from workbench.figures import _looks
from workbench.figures._style import arm_order
from workbench.rows import Row
from workbench.store import RunHeader, Store

SEED = re.compile(r",?seed=\d+")


@dataclass(frozen=True, eq=False)
class Frames:
    """Tables of several runs, by kind of row; columns `arm`, `attack`, `seed` come from headers."""

    runs: tuple[RunHeader, ...] = ()
    tables: Mapping[type[Row], pd.DataFrame] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Run id to the reason it is not shown."""
    source: str = "runs"
    """The store, as the user named it."""

    def __getitem__(self, kind: type[Row]) -> pd.DataFrame:
        """All rows of a kind; none when it was not loaded."""
        if kind in self.tables:
            return self.tables[kind]
        return _with_names(tables.frame(kind, []), [])

    def attacked(self, kind: type[Row], attack: str | None) -> pd.DataFrame:
        """Rows measured during one attack; None stands for the first attack by name."""
        rows = self[kind]
        rows = rows[rows["stage"] == "attack"]
        names = sorted(rows["attack"].unique())
        return rows[rows["attack"] == (attack or (names[0] if names else ""))]

    def found(
        self, kind: type[Row], *columns: str, stage: str | None = "attack", name: str | None = None
    ) -> dict[str, list[Any]]:
        """The values that columns take, sorted: in rows of one stage and one name, or of all."""
        rows = self[kind]
        rows = rows if stage is None else rows[rows["stage"] == stage]
        rows = rows if name is None else rows[rows["name"] == name]
        return {column: sorted(rows[column].unique().tolist()) for column in columns}


def in_order(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A table sorted by arm, as legends list them, then by other columns."""
    if not len(table):
        return table.reset_index(drop=True)
    places = {arm: i for i, arm in enumerate(sorted(table["arm"].unique(), key=arm_order))}
    return table.sort_values(
        ["arm", *columns], key=lambda c: c.map(places) if c.name == "arm" else c, kind="stable"
    ).reset_index(drop=True)


def load(
    store: Store, runs: Iterable[str | RunHeader] | None, needs: Iterable[type[Row]]
) -> Frames:
    """Read what figures need.

    Args:
        store: where the runs are.
        runs: ids or headers; None for all. A run brings along the run it starts from, and an
            immunised model the attacks on it.
        needs: kinds of row to read.

    Raises:
        UnknownNameError: a run that is not in this store.
    """
    every = {run.id: run for run in store.runs()}
    chosen = _family(every, store, runs)
    left_out = {
        run.id: run.error or f"it is {run.state}" for run in chosen if run.state != "finished"
    }
    shown, repeated = newest([run for run in chosen if run.state == "finished"])
    left_out |= repeated
    parts: dict[type[Row], dict[str, Any]] = {kind: {} for kind in needs}
    for run in shown:
        try:
            read = {k: tables.read(k, store.folder(run.id) / f"{k.kind}.parquet") for k in parts}
        except RunError as error:
            left_out[run.id] = str(error)
            continue
        for kind, table in read.items():
            parts[kind][run.id] = table
    kept = tuple(run for run in shown if run.id not in left_out)
    return Frames(
        runs=kept,
        tables={k: _with_names(tables.frame(k, list(p.items())), kept) for k, p in parts.items()},
        left_out=left_out,
        source=str(store.root),
    )


def _family(
    every: Mapping[str, RunHeader], store: Store, runs: Iterable[str | RunHeader] | None
) -> list[RunHeader]:
    """The runs asked for with their relatives, oldest first."""
    if runs is None:
        return list(every.values())
    ids = {run.id if isinstance(run, RunHeader) else store.get(run).id for run in runs}
    parents = {parent for run in ids & every.keys() for parent in every[run].parents}
    children = {run.id for run in every.values() if ids & set(run.parents)}
    return [run for run in every.values() if run.id in ids | parents | children]


def newest(runs: list[RunHeader]) -> tuple[list[RunHeader], dict[str, str]]:
    """One run for each arm, attack and seed, and why the others are not shown.

    Runs that only looked at a checkpoint are left out where others hold all that they found.
    """
    names = arm_names(runs)
    alike: dict[tuple[Any, ...], list[RunHeader]] = {}
    for run in runs:
        key = (run.kind, names[run.id], run.seed, run.probe is not None)
        alike.setdefault(key, []).append(run)
    left_out: dict[str, str] = {}
    for (*_, looked), same in alike.items():
        if looked:
            left_out |= _looks.repeated(same)
        else:
            left_out |= {r.id: f"a newer run repeats it: {same[-1].id}" for r in same[:-1]}
    shown = [run for run in runs if run.id not in left_out]
    return shown, {run.id: left_out[run.id] for run in runs if run.id in left_out}


def arm_names(runs: Iterable[RunHeader]) -> dict[str, tuple[str, str]]:
    """Arm and attack of each run, with the settings in which runs of the same name differ.

    Looks at one checkpoint are told apart only where their rows do not do it (`_looks`).
    """
    runs = list(runs)
    arms = {r.id: (r.arm, flattened(r.defence) | {"model": SEED.sub("", r.model)}) for r in runs}
    attacks = {r.id: ((r.attack or {}).get("name", ""), flattened(r.attack)) for r in runs}
    data = {r.hashes.get("data", "")[:8] for r in runs}
    arm, attack = _distinct(arms), _distinct(attacks)
    names = {
        r.id: (
            arm[r.id] + (f" data={r.hashes.get('data', '')[:8]}" if len(data) > 1 else ""),
            attack[r.id],
        )
        for r in runs
    }
    looks = _looks.suffixes(runs, names)
    return {run: (name + looks.get(run, ""), assault) for run, (name, assault) in names.items()}


def _distinct(named: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Names, followed by the settings that tell same-named things apart."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for name, settings in named.values():
        by_name.setdefault(name, []).append(settings)
    differ = {
        name: [key for key in group[0] if any(s.get(key) != group[0][key] for s in group)]
        for name, group in by_name.items()
    }
    return {
        run: " ".join([name, *(f"{k.split('.')[-1]}={s.get(k)}" for k in differ[name])])
        for run, (name, s) in named.items()
    }


def flattened(method: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in (method or {}).items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _with_names(table: pd.DataFrame, runs: Iterable[RunHeader]) -> pd.DataFrame:
    """A table with arm, attack and seed of each row's run in front."""
    runs = list(runs)
    names = arm_names(runs)
    table.insert(1, "arm", table["run"].map({r: arm for r, (arm, _) in names.items()}))
    table.insert(2, "attack", table["run"].map({r: attack for r, (_, attack) in names.items()}))
    table.insert(3, "seed", table["run"].map({run.id: run.seed for run in runs}))
    return table
