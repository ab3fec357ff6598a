"""Carrying a plan out: tune, run what is reported, say how far it got. Resumable."""

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rich.console import Console

from workbench.defences import Defence
from workbench.errors import WorkbenchError
from workbench.execution import Outcome, conduct
from workbench.headers import RunHeader
from workbench.pillars import Thresholds
from workbench.progress import clock
from workbench.results.choose import Trial, judged
from workbench.results.plan import Plan
from workbench.store import Store

VAL, TEST = "val", "test"


@dataclass(frozen=True)
class Campaign:
    """A plan and what came of it."""

    plan: Plan
    trials: list[Trial]
    store: Store
    """Of the reported runs."""
    runs: list[RunHeader]
    """The finished ones, in the order of the plan."""
    failed: dict[str, str]

    @property
    def chosen(self) -> dict[str, Defence]:
        """Each method as it was tuned."""
        return {t.method: t.defence for t in self.trials if t.chosen}

    @property
    def seconds(self) -> float:
        """Wall time of all reported runs, added up."""
        return sum(run.seconds or 0.0 for run in self.runs)


def carry_out(plan: Plan, root: Path, jobs: int, console: Console) -> Campaign:
    """Make every run of a plan that is not there yet, in `root/val` and `root/test`.

    Raises:
        WorkbenchError: a trial failed, so nothing can be chosen.
    """
    begun, limits = monotonic(), Thresholds()
    console.rule("tuning on val")
    tuned = conduct(plan.tuning(), Store(root / VAL), jobs=jobs, console=console)
    if tuned.failed:
        raise WorkbenchError("; ".join(f"{k}: {v}" for k, v in tuned.failed.items()))
    trials = judged(tuned.store, tuned.runs, plan.methods, limits)
    for trial in trials:
        if trial.chosen:
            console.print(f"chosen: {trial.line.arm}", highlight=False)
    store, outcomes = Store(root / TEST), list[Outcome]()
    studies = list(plan.reported({t.method: t.defence for t in trials if t.chosen}))
    for i, study in enumerate(studies, 1):
        console.rule(f"study {i} of {len(studies)}, after {clock(monotonic() - begun)}")
        outcomes.append(conduct(study, store, jobs=jobs, console=console))
    runs = {run.id: run for outcome in outcomes for run in outcome.runs}
    failed = {
        f"{chain} of {study.model} under {', '.join(study.attacks)}": why
        for study, outcome in zip(studies, outcomes, strict=True)
        for chain, why in outcome.failed.items()
    }
    return Campaign(plan, trials, store, list(runs.values()), failed)
