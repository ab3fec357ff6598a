"""The main job: Vaccine, its matched control and no defence, each attacked by fine-tuning."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from workbench.attacks import SupervisedFineTuning
from workbench.catalogue import USUAL_PROBES
from workbench.defences import Vaccine
from workbench.execution import Outcome, conduct
from workbench.lab.recipe import Recipe
from workbench.measures import Measures
from workbench.optimisation import Fit
from workbench.store import Store
from workbench.study import Study, probe


def lab_alignment() -> Fit:
    """The settings that lab models are aligned with; defences that align use the same."""
    recipe = Recipe()
    return Fit(
        steps=recipe.align_steps,
        lr=recipe.align_lr,
        batch_size=recipe.align_batch_size,
        warmup=recipe.align_warmup_steps,
    )


def demo_study(seeds: Sequence[int] = (0, 1, 2), probes: Sequence[str] = USUAL_PROBES) -> Study:
    """Vaccine (ρ = 2, the paper's) on the lab's base model; SFT on 64 hazards, lr 1e-4.

    The undefended arm is the shipped aligned model, so its seeds are the attack's alone; those of
    Vaccine and its control are of alignment and attack.
    """
    return Study(
        model="lab:aligned",
        defences={"vaccine": Vaccine(rho=2.0, fit=lab_alignment())},
        attacks={"sft": SupervisedFineTuning(steps=96, samples=64, lr=1e-4, batch_size=16)},
        seeds=tuple(seeds),
        measures=Measures(prefill=7),
        probes={name: probe(name) for name in probes},
    )


def run_demo(
    root: Path,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 2,
    console: Console | None = None,
    probes: Sequence[str] = USUAL_PROBES,
) -> Outcome:
    """Conduct the demonstration study in a store."""
    return conduct(demo_study(seeds, probes), Store(root), jobs=jobs, console=console)
