"""`workbench figures`: draw stored runs for a paper, or list what can be drawn. Needs no torch."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from tyro.extras import SubcommandApp

from workbench import catalogue
from workbench.commands._base import Command
from workbench.errors import InvalidValueError

if TYPE_CHECKING:
    from workbench.figures import Exported

HELP = "Export figures of stored runs for a paper, or list which there are."
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Export one figure (or `all`) with its data and provenance.

    Exit code 1 when there is no browser to make pictures with: data and figure are written anyway.
    """

    name: tyro.conf.Positional[str]
    """A name from `workbench figures list`, or `all` for every figure these runs have rows for."""
    store: Path = Path("runs")
    """Folder of run folders."""
    runs: tuple[str, ...] = ()
    """Ids of runs; none for all finished ones. A run brings its parent, a model its attacks."""
    venue: str = "neurips"
    """Whose page it shall fit: neurips, iclr, icml or acl."""
    width: Literal["column", "full"] = "column"
    """One column of the page, or all of it."""
    formats: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "svg", "png")
    """Kinds of picture."""
    set: tuple[str, ...] = ()
    """The figure's parameters, as `phi=0.4 log=true`; `workbench figures list` names them."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("figures")
    """Folder for the files."""

    def run(self, console: Console) -> int:
        """Draw and write; exit code 1 when pictures could not be made."""
        from workbench.figures import Browser, export, export_all, figure, load, paper
        from workbench.store import Store

        given, store, runs = _pairs(self.set), Store(self.store), self.runs or None
        theme = paper(self.venue, self.width)
        if self.name == ALL:
            done = export_all(
                store, runs, self.output, venue=self.venue, width=self.width,
                formats=self.formats, **given,
            )  # fmt: skip
        else:
            chosen = figure(catalogue.entry("figures", self.name)["name"])
            params, frames = chosen.given(given), load(store, runs, chosen.needs)
            with Browser() as browser:
                done = [export(chosen, frames, self.output, theme, browser, params=params,
                               formats=self.formats, command=shlex.join(sys.argv[1:]))]  # fmt: skip
        return report(done, console)


@dataclass(frozen=True, kw_only=True)
class List(Command):
    """List the figures: the question each answers, the rows it needs, its parameters."""

    def run(self, console: Console) -> int:
        """Print them."""
        from workbench.figures import FIGURES

        for each in FIGURES.values():
            console.print(f"[bold]{each.name}[/]  {each.title}", highlight=False)
            needed = ", ".join(kind.kind for kind in each.needs)
            console.print(f"    from rows of: {needed}", highlight=False)
            for item in catalogue.settings(each.params):
                text = f"    {item['name']}={item['default']}  {item['doc']}"
                console.print(text, markup=False, highlight=False, style="dim")
        return 0


def report(done: Sequence["Exported"], console: Console) -> int:
    """Say what was written, what is not shown, and why pictures are missing; the exit code."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for run, why in {run: why for each in done for run, why in each.left_out.items()}.items():
        say(f"not shown: {run}: {why}", "dim")
    for file in (file for each in done for file in each.files):
        say(str(file))
    problems: dict[str, list[str]] = {}
    for each in done:
        if each.problem:
            problems.setdefault(each.problem, []).append(each.figure)
    for problem, names in problems.items():
        say(f"{', '.join(names)}: {problem}", "yellow")
    return 1 if problems else 0


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """`name=value` words as a mapping."""
    pairs = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidValueError(f"--set takes name=value, e.g. --set phi=0.4, not {word!r}.")
        pairs[name] = value
    return pairs


def group() -> SubcommandApp:
    """The sub-commands of `workbench figures`."""
    app = SubcommandApp()
    app.command(name="export")(Export)
    app.command(name="list")(List)
    return app
