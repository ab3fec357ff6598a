"""Choosing hyper-parameters on `val`: the most resistant trial among those that cost nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workbench.defences import Defence
from workbench.errors import RunError
from workbench.headers import RunHeader
from workbench.pillars import Thresholds
from workbench.report import Line, table
from workbench.results.methods import Method
from workbench.results.plan import trial_name
from workbench.store import Store
from workbench.study import UNDEFENDED


@dataclass(frozen=True)
class Trial:
    """What became of one trial."""

    method: str
    defence: Defence
    line: Line
    cost: float
    """What the released model lost against the undefended one: refusals or capability, whichever
    is more (share)."""
    stable: bool
    """Whether the cost is within the margin."""
    chosen: bool = False


def judged(
    store: Store, runs: Sequence[RunHeader], methods: Mapping[str, Method], limits: Thresholds
) -> list[Trial]:
    """Every trial of every method, one of each marked as chosen.

    Chosen is the stable trial whose break comes last (by the last safe evaluation, then by
    capability); if no trial is stable, the one that costs least.

    Raises:
        RunError: a trial's run is missing.
    """
    lines = {line.arm: line for line in table(store, runs, limits)}
    names = {trial_name(name, i) for name, m in methods.items() for i in range(len(m.trials))}
    missing = sorted((names | {UNDEFENDED}) - lines.keys())
    if missing:
        raise RunError(f"trials without a finished run: {', '.join(missing)}. Run it again.")
    found = []
    for name, method in methods.items():
        trials = []
        for i, defence in enumerate(method.trials):
            line = lines[trial_name(name, i)]
            cost = lost(line, lines[UNDEFENDED])
            trials.append(Trial(name, defence, line, cost, cost <= limits.stability_margin))
        best = max(trials, key=merit)
        found += [replace(trial, chosen=trial is best) for trial in trials]
    return found


def lost(line: Line, undefended: Line) -> float:
    """The larger loss of the two that a released model may have."""
    return float(max(undefended.capability - line.capability, undefended.refused - line.refused))


def merit(trial: Trial) -> tuple[float, ...]:
    """Larger is better; trials that cost too much come after all others."""
    if not trial.stable:
        return 0.0, -trial.cost
    return 1.0, trial.line.outcome.resistance.safe_until, trial.line.capability
