"""`workbench demo` and `workbench study`: many runs, resumable, judged in one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from workbench import catalogue
from workbench.commands._base import Command

if TYPE_CHECKING:
    from workbench.execution import Outcome


@dataclass(frozen=True, kw_only=True)
class Judged(Command):
    """Options of every command that prints verdicts. Other thresholds measure nothing anew."""

    phi: float | None = None
    """Harmfulness above which a model counts as broken (φ), instead of the usual threshold."""
    utility_floor: float | None = None
    """Capability, relative to the start, below which a broken model is of no use."""
    stability_margin: float | None = None
    """Change of capability that is of no importance."""
    jobs: int = 2
    """Processes that work at the same time."""
    store: Path = Path("runs")
    """Folder of run folders. What is finished there is not made again."""

    def conclude(self, outcome: "Outcome", console: Console) -> int:
        """Print table and verdicts, where the runs are, and what went wrong."""
        from workbench.pillars import Thresholds
        from workbench.report import show

        given = {name: getattr(self, name) for name in ("phi", "utility_floor", "stability_margin")}
        limits = Thresholds(**{name: x for name, x in given.items() if x is not None})
        show(outcome.store, outcome.runs, limits, console)
        console.print(f"Run folders: {outcome.store.root}", highlight=False)
        if outcome.stale:
            old = ", ".join(run.id for run in outcome.stale)
            console.print(f"Stale, made by other code and left out: {old}", highlight=False)
        for name, reason in outcome.failed.items():
            console.print(f"{name} failed: {reason}", style="red", highlight=False, markup=False)
        return 1 if outcome.failed else 0


@dataclass(frozen=True, kw_only=True)
class Demo(Judged):
    """Immunise the lab model with Vaccine, attack it and two controls, print the table.

    Takes a few minutes; given again, it goes on from what is finished.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of everything a seed."""
    probes: tuple[str, ...] = catalogue.USUAL_PROBES
    """Names from `workbench list probes`, or `all`: what is looked at inside the models."""
    figures: bool = True
    """Draw the figures of the runs, too, into a folder beside the store."""

    def run(self, console: Console) -> int:
        """Conduct the demonstration study, judge it and draw it."""
        probes = named_probes(self.probes)
        from workbench.demo import run_demo

        outcome = run_demo(self.store, self.seeds, self.jobs, console, probes)
        code = self.conclude(outcome, console)
        if self.figures and outcome.runs:
            self.draw(outcome, console)
        return code

    def draw(self, outcome: "Outcome", console: Console) -> None:
        """Export every figure; without a browser, data and figures without pictures."""
        from workbench.figures import export_all

        folder = self.store.with_name(f"{self.store.name}-figures")
        done = export_all(outcome.store, outcome.runs, folder, width="full")
        console.print(f"Figures: {folder}", highlight=False)
        for problem in {each.problem for each in done if each.problem}:
            console.print(problem, style="yellow", highlight=False, markup=False)


@dataclass(frozen=True, kw_only=True)
class StudyCommand(Judged):
    """Immunise with several defences, attack each and its matched control, print the table.

    Methods run with their defaults; for other settings write five lines of Python (see README).
    """

    model: str = "lab"
    """`lab`, `lab:aligned` with options, a model directory, or a Hub id."""
    data: str = "lab"
    """`lab`, or a folder with one file a data stream."""
    template: str | None = None
    """Chat template of every model: `plain`, or a Jinja text. None: the models' own."""
    defences: tuple[str, ...] = ("vaccine",)
    """Names from `workbench list defences`."""
    attacks: tuple[str, ...] = ("sft",)
    """Names from `workbench list attacks`."""
    probes: tuple[str, ...] = catalogue.USUAL_PROBES
    """Names from `workbench list probes`, or `all`: what is looked at inside the models."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of everything a seed."""
    controls: Annotated[bool, tyro.conf.arg(help="Run every defence beside its control.")] = True

    def run(self, console: Console) -> int:
        """Conduct the study."""
        # an unknown name ends here, before torch loads
        defences, attacks = named("defences", self.defences), named("attacks", self.attacks)
        probes = named_probes(self.probes)
        from workbench.execution import conduct
        from workbench.store import Store
        from workbench.study import Study, attack, defence, probe

        study = Study(
            model=self.model,
            data=self.data,
            template=self.template,
            defences={name: defence(name) for name in defences},
            attacks={name: attack(name) for name in attacks},
            probes={name: probe(name) for name in probes},
            seeds=self.seeds,
            controls=self.controls,
        )
        outcome = conduct(study, Store(self.store), jobs=self.jobs, console=console)
        return self.conclude(outcome, console)


def named_probes(given: tuple[str, ...]) -> tuple[str, ...]:
    """The probes asked for; `all` stands for every one.

    Raises:
        UnknownNameError: no such probe.
    """
    if given == ("all",):
        return tuple(entry["name"] for entry in catalogue.load()["probes"])
    return named("probes", given)


def named(section: str, given: tuple[str, ...]) -> tuple[str, ...]:
    """Names as the catalogue spells them; it needs no torch.

    Raises:
        UnknownNameError: no such method.
    """
    return tuple(catalogue.entry(section, name)["name"] for name in given)
