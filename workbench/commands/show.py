"""`workbench list` and `workbench doctor`: what there is, and what is missing."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from workbench import catalogue
from workbench.commands._base import Command

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "problem": "[red]✗[/]"}


@dataclass(frozen=True, kw_only=True)
class List(Command):
    """List what there is: defences, attacks, probes or figures."""

    what: tyro.conf.Positional[Literal["defences", "attacks", "probes", "figures"]]
    """What to list."""
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print the catalogue's entries, settings included, as JSON."""

    def run(self, console: Console) -> int:
        """Print the catalogue, or the part of it that fits a table."""
        entries = catalogue.load()[self.what]
        if self.as_json:
            _print_json(entries)
        elif entries:
            console.print(_table(entries))
        else:
            console.print(f"no {self.what} yet")
        return 0


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Say what is installed, which device is used, and what to do about what is missing."""

    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print the findings as JSON."""

    def run(self, console: Console) -> int:
        """Examine this machine; exit code 1 when something must be repaired."""
        from workbench.doctor import examine

        findings = examine()
        if self.as_json:
            _print_json([asdict(finding) for finding in findings])
        else:
            for x in findings:
                console.print(f"{MARKS[x.state]} {x.name}: ", end="")
                console.print(x.found, markup=False, highlight=False, soft_wrap=True)
                if x.remedy:
                    console.print(
                        f"    → {x.remedy}", markup=False, highlight=False, soft_wrap=True
                    )
        return 1 if any(x.state == "problem" for x in findings) else 0


def _table(entries: list[dict[str, Any]]) -> Table:
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("name", "family", "summary", "paper"):
        grid.add_column(head)
    for entry in entries:
        cited = catalogue.citation(entry)
        grid.add_row(entry["name"], entry["family"], entry["summary"], cited)
    return grid


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
