"""Which arms of a campaign are one method at several intensities, everything else alike."""

from dataclasses import asdict

from workbench.defences import Defence
from workbench.figures import flattened
from workbench.results.campaign import Campaign


def swept_arms(campaign: Campaign) -> dict[str, dict[str, float]]:
    """Method to the arms of its sweep, the tuned one included, each with its intensity."""
    chosen, plan = campaign.chosen, campaign.plan
    arms = {**chosen, **plan.papers(chosen), **plan.sweeps(chosen)}
    return {
        name: {
            arm: method.strength(defence)
            for arm, defence in arms.items()
            if type(defence) is type(chosen[name])
            and _apart(defence, chosen[name]) <= {method.intensity}
        }
        for name, method in plan.methods.items()
        if method.intensity
    }


def _apart(a: Defence, b: Defence) -> set[str]:
    """Names of the hyper-parameters in which two settings differ, their loops' included."""
    mine, theirs = flattened(asdict(a)), flattened(asdict(b))
    return {name for name in mine if mine[name] != theirs[name]}
