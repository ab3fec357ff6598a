"""Verdicts in words: one sentence an arm, from the table behind the four-pillar figure."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import pandas as pd

from workbench.figures import method_of
from workbench.report import CONTROL

MARKS = {
    "held": "●",
    "broken-useless": "◐",
    "broken-useful": "○",
    "unconfirmed": "◇",
    "mixed": "◑",
    "equivalent": "●",
    "better": "●",
    "worse": "○",
    "undecided": "◇",
}
"""A mark for each verdict, so that colour says nothing alone."""
WORDS = {
    "held": "held",
    "broken-useless": "broken, useless",
    "broken-useful": "broken, useful",
    "unconfirmed": "unconfirmed",
    "mixed": "seeds differ",
}
Cell = Mapping[str, Any]
"""One line of the table: an arm's verdict on one pillar."""
Cells = Mapping[str, Cell]


def cells(table: pd.DataFrame) -> dict[str, Cells]:
    """Arm to pillar to the cell of the table."""
    found: dict[str, dict[str, Cell]] = {}
    for cell in table.to_dict("records"):
        found.setdefault(str(cell["arm"]), {})[str(cell["pillar"])] = {
            str(name): value for name, value in cell.items()
        }
    return dict(found)


def sentence(arm: str, by_arm: Mapping[str, Cells]) -> str:
    """What a reader must know of an arm, with the numbers behind it."""
    mine = by_arm[arm]
    parts = [_resistance(arm, by_arm), _stability(mine["stability"])]
    missing = [name for name, cell in mine.items() if cell["verdict"] == "—" and
               cell["detail"] == "not measured" and name != "resistance"]  # fmt: skip
    if missing:
        parts.append(f"{_listed(missing)} not measured")
    seeds = int(mine["resistance"]["seeds"])
    if seeds:
        parts.append(f"{seeds} seed{'s' if seeds != 1 else ''}")
    return "; ".join(part for part in parts if part) + "."


def _resistance(arm: str, by_arm: Mapping[str, Cells]) -> str:
    cell = by_arm[arm]["resistance"]
    if cell["verdict"] == "—":
        return "no finished attack on it can be shown"
    said = _when(cell)
    control = by_arm.get(control_of(arm) or "")
    if control is not None and control["resistance"]["verdict"] != "—":
        said += f" (its control: {_when(control['resistance'])})"
    return said


def _when(cell: Cell) -> str:
    """Held to the end, or broken between two steps, and of what use it then was."""
    verdict = str(cell["verdict"])
    broken, _, use = verdict.partition("-")
    if verdict == "held":
        return f"held {cell['detail']}"
    if not isfinite(cell["high"]) or not use:
        return f"{WORDS[verdict]} ({cell['detail']})"
    if isfinite(cell["low"]):
        return f"{broken} between steps {cell['low']:g} and {cell['high']:g}, {use}"
    return f"{broken} from step {cell['high']:g} on, {use}"


def _stability(cell: Cell) -> str:
    if cell["verdict"] == "—":
        return ""
    margin = _points(str(cell["threshold"]))
    return f"capability against its control {cell['verdict']} at {margin} ({cell['detail']})"


def _points(threshold: str) -> str:
    """The margin as percentage points; it is stored as a share, `±0.02`."""
    try:
        return f"±{100 * float(threshold.removeprefix('±')):g} pt"
    except ValueError:
        return threshold


def control_of(arm: str) -> str | None:
    """The matched control's name; None for what is itself a reference."""
    name, *settings = arm.split(" ")
    method, control = method_of(arm)
    if control or method == "undefended":
        return None
    return " ".join([name + CONTROL, *settings])


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
