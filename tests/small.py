"""Studies of the lab model that take seconds: few steps, few questions."""

from dataclasses import replace

from workbench.attacks import SupervisedFineTuning
from workbench.defences import Vaccine
from workbench.measures import Measures
from workbench.optimisation import Fit
from workbench.study import Study

FIT = Fit(steps=4, lr=3e-4, batch_size=4, warmup=0)
ATTACK = SupervisedFineTuning(steps=3, samples=8, batch_size=4, lr=1e-4, warmup=0)
MEASURES = Measures(curve_at=(0, 1, 2), probe_at=(0,), panel=2, limit=2, record_at=(0.0, 1.0))


def study(**changes):
    """Vaccine beside its control under a three-step attack."""
    base = Study(
        model="lab:aligned",
        defences={"vaccine": Vaccine(rho=1.0, fit=FIT)},
        attacks={"sft": ATTACK},
        seeds=(0,),
        measures=MEASURES,
    )
    return replace(base, **changes)
