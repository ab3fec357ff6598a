"""What the tables cannot say of themselves: how the methods were set up, and what that leaves out.

Words are typed here, beside nothing else; whatever is a number of the plan is taken from it.
"""

from collections.abc import Mapping

from workbench.defences import Defence, RandomVaccine, TVaccine
from workbench.demo import lab_alignment
from workbench.lab.recipe import RECIPE
from workbench.results.markdown import counted
from workbench.results.methods import Method

_LOOP = lab_alignment()
PAPERS = (
    "Of the first trials only the method's own numbers are the paper's; the loop is the lab's. "
    "Vaccine, Random-Vaccine and T-Vaccine train all weights in "
    f"{_LOOP.steps} steps of {_LOOP.batch_size}, lr {_LOOP.lr:g}, without weight decay (papers: "
    "LoRA, lr 0.001, decay 0.1, batches of 5 and 10); ρ is a norm over the batch, so the papers' "
    "ρ = 2 and ρ = 3 belong to those batches. Nearer to theirs are circuit breakers (LoRA, steps, "
    "batch and learning rate) and RepNoise (optimiser, batch and learning rate, but 120 steps "
    "instead of 1250)."
)
"""How far the first trial of a method is the paper's (settings: the defences' own docstrings)."""

HISTORY = (
    "Three methods had a first grid on `val`, of six trials (T-Vaccine: four), which this one "
    "replaced. In the paper's form (drift in absolute units) circuit breakers stayed at the start "
    "in five trials; RepNoise lost 0.04 to 0.14 of capability in all; T-Vaccine, training the "
    "active blocks alone, broke within 20 steps in all. Vaccine and its baseline have had one grid."
)
"""What was tried before; said in the document, because it is tuning, too."""

UNSWEPT = (
    "What numbers other than these would buy is not shown. Circuit breakers' α scales the whole "
    "loss, rerouting and retention alike, and Adam divides a scale out again but for its ε and "
    "for clipping; the learning rate is swept beside it. RepNoise has two: β weighs the noise, α "
    "the ascent on harmful answers. Random-Vaccine is a baseline and not swept."
)
"""Which intensities there are no sweeps of."""


def spent(methods: Mapping[str, Method]) -> str:
    """How many trials every method has had, those of a replaced grid included."""
    totals = {name: len(m.trials) + m.earlier for name, m in methods.items()}
    said = "Trials in all: " + ", ".join(f"{name} {n}" for name, n in totals.items()) + "."
    if not any(m.earlier for m in methods.values()):
        return said
    return f"{said} Where a first grid shaped the second, the method was tuned longer than others."


def remarks(chosen: Mapping[str, Defence], methods: Mapping[str, Method]) -> dict[str, str]:
    """Method to what its chosen settings do to a claim about it, if they do anything."""
    found = {}
    for name, defence in chosen.items():
        if isinstance(defence, RandomVaccine) and _least_noise(defence, methods[name]):
            found[name] = (
                f"Of the noise tried, tuning chose the least (variance {defence.variance:g}): this "
                f"is nearly a comparison with plain alignment (see the pairs of `{name}`)"
            )
        if isinstance(defence, TVaccine) and 2 * (defence.active or 0) > RECIPE.n_layers:
            active = counted("block", defence.active or 0)
            found[name] = (
                f"As tuned, {active} of {RECIPE.n_layers} are perturbed at a time: few layers were "
                "not put to this test"
            )
    return found


def _least_noise(chosen: RandomVaccine, method: Method) -> bool:
    tried = [t.variance for t in method.trials if isinstance(t, RandomVaccine)]
    return chosen.variance == min(tried)
