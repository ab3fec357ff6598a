"""A campaign in miniature: a method and its baseline, two trials each, two steps."""

import pytest
from rich.console import Console

from workbench.attacks import SupervisedFineTuning
from workbench.defences import RandomVaccine, Vaccine
from workbench.measures import Measures
from workbench.optimisation import Fit
from workbench.results import Plan, carry_out
from workbench.results.methods import Method

FIT = Fit(steps=2, batch_size=4, warmup=0)
ATTACK = SupervisedFineTuning(steps=2, samples=8, batch_size=4, warmup=0)


def plan() -> Plan:
    return Plan(
        bases=("lab:aligned",),
        seeds=(0,),
        methods={
            "vaccine": Method(
                tuple(Vaccine(rho=rho, fit=FIT) for rho in (2.0, 0.1)),
                sweeps={"rho": (2.0, 5.0), "fit.lr": (1e-3,)},
            ),
            "random_vaccine": Method(
                tuple(RandomVaccine(variance=v, fit=FIT) for v in (1.0, 0.1)), control="vaccine"
            ),
        },
        attacks={"sft": ATTACK, "sft-lr=3e-4": SupervisedFineTuning(steps=2, lr=3e-4, samples=8)},
        measures=Measures(curve_at=(0, 1), probe_at=(0,), panel=2, record_sites=(), prefill=2),
    )


@pytest.fixture(scope="package")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="package")
def campaign(root):
    return carry_out(plan(), root, jobs=1, console=Console(quiet=True))
