"""The section of the document about tuning: every trial, the chosen ones in bold."""

from collections.abc import Sequence
from dataclasses import asdict

from workbench.defences import Defence
from workbench.figures import flattened
from workbench.pillars import Thresholds
from workbench.results.campaign import Campaign
from workbench.results.findings import interval, median_break
from workbench.results.markdown import grid, wrapped
from workbench.results.notes import HISTORY, PAPERS, spent
from workbench.results.plan import MAIN


def tuning(campaign: Campaign) -> str:
    """Every trial, and how the chosen ones were chosen."""
    rows = []
    for trial in campaign.trials:
        line = trial.line
        settings = _settings(trial.defence, campaign.plan.methods[trial.method].trials)
        fate = "chosen" if trial.chosen else "" if trial.stable else "costs too much"
        broken = interval(median_break([line.outcome.resistance]))
        rows.append(
            [f"**{trial.method}**" if trial.chosen else trial.method, settings, broken,
             f"{line.refused:.2f}", f"{line.capability:.3f}", fate]
        )  # fmt: skip
    plan = campaign.plan
    return "\n\n".join(
        [
            "## Tuning",
            wrapped(
                f"On `val` entities, base `{plan.bases[0]}` alone, seed {plan.tuning_seed} (not "
                f"among the reported ones), under `{MAIN}`, with the same number of trials for "
                "every method in the grid that decided, the first with the paper's own numbers of "
                "the method, in the lab's loop. Chosen: among trials whose released model refuses "
                f"and knows at most {Thresholds().stability_margin:g} less than the undefended "
                "one, the one that breaks last (of equals the more capable); one seed, so "
                "neighbouring trials are not told apart. If every trial costs too much, the one "
                "that costs least."
            ),
            wrapped(PAPERS),
            wrapped(HISTORY),
            wrapped(spent(plan.methods)),
            grid(("method", "settings", "breaks at", "refuses", "capability", ""), rows),
        ]
    )


def _settings(defence: Defence, trials: Sequence[Defence]) -> str:
    """The hyper-parameters in which a method's trials differ."""
    flat = [flattened(asdict(trial)) for trial in trials]
    varying = [name for name in flat[0] if any(f[name] != flat[0][name] for f in flat)]
    mine = flattened(asdict(defence))
    return ", ".join(f"{name.split('.')[-1]} {_text(mine[name])}" for name in varying)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
