"""Which arms of a campaign are one method at several intensities, everything else alike."""

from dataclasses import asdict

from workbench.defences import Defence
from workbench.figures import flattened
from workbench.results.campaign import Campaign
from workbench.results.methods import strength

Swept = dict[tuple[str, str], dict[str, float]]
"""Method and hyper-parameter to the arms of that sweep, each with its intensity."""


def swept_arms(campaign: Campaign) -> Swept:
    """All sweeps, the tuned arm included in each."""
    chosen, plan = campaign.chosen, campaign.plan
    arms = {**chosen, **plan.papers(chosen), **plan.sweeps(chosen)}
    return {
        (name, parameter): {
            arm: strength(defence, parameter)
            for arm, defence in arms.items()
            if type(defence) is type(chosen[name]) and _apart(defence, chosen[name]) <= {parameter}
        }
        for name, method in plan.methods.items()
        for parameter in method.sweeps
    }


def _apart(a: Defence, b: Defence) -> set[str]:
    """Names of the hyper-parameters in which two settings differ, their loops' included."""
    mine, theirs = flattened(asdict(a)), flattened(asdict(b))
    return {name for name in mine if mine[name] != theirs[name]}
