"""Results as they are kept, printed, and shown in the README."""

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from benchmarks.table import Row
from workbench.files import write_json
from workbench.provenance import git_state, library_versions

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: made by `python -m benchmarks --table` -->", "<!-- end of results -->"
PEERS = ("transformer-lens", "nnsight")
Result = dict[str, Any]


def result(row: Row, figure: Figure) -> Result:
    """A figure with its goal and what it depends on, in plain JSON values."""
    state = git_state()
    today = datetime.now(UTC).date().isoformat()
    return {
        "name": row.name,
        "value": figure.value,
        "upper95": figure.upper95,
        "unit": row.unit,
        "goal": row.goal,
        "better": row.better,
        "ours": figure.ours,
        "peer": figure.peer,
        "peer_name": row.peer or None,
        "limit": row.limit or None,
        "limit_value": figure.limit_value,
        "configuration": figure.configuration | {"ours_and_peer_in": row.sides, "date": today},
        "commit": None if state is None else state["commit"] + "+changes" * state["dirty"],
        "machine": machine(),
        "versions": library_versions() | {name: metadata.version(name) for name in PEERS},
    }


def machine() -> str:
    """Processor, cores and system."""
    about = Path("/proc/cpuinfo")  # Linux only
    model = re.search(r"model name\s*: (.+)", about.read_text()) if about.exists() else None
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def read(path: Path) -> list[Result]:
    """The results kept so far."""
    return json.loads(path.read_text()) if path.exists() else []


def keep(path: Path, fresh: Iterable[Result], order: Sequence[str]) -> None:
    """Put fresh results in the place of older ones of the same rows; the others stay."""
    results = {r["name"]: r for r in [*read(path), *fresh]}
    known = [results[name] for name in order if name in results]
    write_json(path, known)


def line(row: Row, figure: Figure, quick: bool) -> str:
    """One figure for the terminal."""
    verdict = "met" if row.met(figure.value, figure.upper95) else "MISSED"
    if quick:
        verdict = "(quick: not the goal's sizes)"
    bound = "" if figure.upper95 is None else f" (95 % bound {figure.upper95:.4g})"
    return (
        f"{row.name:36} {figure.value:.4g}{bound}  goal {goal(row)}  {verdict}"
        f"\n{'':36} ours {shown(figure.ours)}, peer {shown(figure.peer)} {beside(row)}"
        f"\n{'':36} {figure.configuration}"
    )


def goal(row: Row) -> str:
    """The goal as the table writes it."""
    sign = "≤" if row.better == "lower" else "≥"
    return f"{'bound ' * row.bound}{sign} {row.goal:g}"


def beside(row: Row) -> str:
    """Unit of what `ours` and `peer` are, and who the peer is."""
    return f"{row.sides} ({row.peer})" if row.peer else "(no peer)"


def shown(value: float | None) -> str:
    """A number of three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(results: Sequence[Result], rows: Mapping[str, Row]) -> str:
    """The results as Markdown, with the reason of every goal that is missed."""
    lines = [
        "| row | measured | value (95 % bound) | middle 90 % | limit | goal | met | ours | peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    missed = []
    for r in results:
        row = rows[r["name"]]
        met = row.met(r["value"], r["upper95"])
        if not met:
            missed.append(f"- `{row.name}`: {row.reason or 'not understood yet.'}")
        lines.append(_line(row, r, met))
    where = [f"Measured on {stamp}." for stamp in dict.fromkeys(map(_stamp, results))]
    parts = ["\n".join(lines), *where]
    if missed:
        parts += ["Missed, and why:\n\n" + "\n".join(missed)]
    return "\n\n".join(parts)


def _line(row: Row, r: Result, met: bool) -> str:
    bound = "" if r["upper95"] is None else f" ({r['upper95']:.4g})"
    spread = r["configuration"].get("middle_90_percent")
    return "| " + " | ".join([
        f"`{row.name}`",
        row.measured,
        f"**{r['value']:.4g}**{bound}",
        "–" if spread is None else f"{spread[0]:.3g} to {spread[1]:.3g}",
        shown(r["limit_value"]),
        goal(row),
        "yes" if met else "no",
        shown(r["ours"]),
        f"{shown(r['peer'])} {beside(row)}".strip(),
    ]) + " |"  # fmt: skip


def _stamp(r: Result) -> str:
    versions = r["versions"]
    named = [f"{n} {versions[n]}" for n in ("python", "torch", "transformers", *PEERS)]
    return f"{r['configuration']['date']}, {r['machine']}; {', '.join(named)}"


def write_table(results: Sequence[Result], rows: Mapping[str, Row], readme: Path = README) -> str:
    """Put the table in its place in the README; returns it."""
    made = table(results, rows)
    text = readme.read_text()
    head, rest = text.split(BEGIN)
    readme.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}")
    return made
