"""The methods under test: their papers' settings, the trials they are tuned by, their intensities.

Every method has `TRIALS` trials, the first of which has the paper's own numbers of the method. What
a paper says about the training loop (7B parameters, LoRA, thousands of steps) does not carry over
to a model of 0.75 M parameters; the loop is mostly the lab's (`notes.PAPERS`), and where a paper's
learning rate is far from what moves such a model, trials differ in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal

from workbench.defences import (
    CircuitBreakers,
    Defence,
    RandomVaccine,
    RepNoise,
    TrainedDefence,
    TVaccine,
    Vaccine,
)
from workbench.demo import lab_alignment
from workbench.optimisation import Fit

TRIALS = 6
Distance = Literal["absolute", "relative"]
Policy = Literal["strict", "official"]
TARGETING: tuple[tuple[float, int | None, Policy], ...] = (
    (3.0, None, "strict"),
    (3.0, None, "official"),
    (3.0, 3, "official"),
    (10.0, 3, "official"),
    (20.0, 3, "official"),
    (10.0, 5, "official"),
)
"""Trials of T-Vaccine: ρ, active layers (None: a quarter), who trains."""
REROUTING: tuple[tuple[Distance, float, int, float], ...] = (
    ("absolute", 1e-4, 16, 0.05),
    ("relative", 1e-3, 16, 0.0),
    ("relative", 3e-3, 16, 0.0),
    ("relative", 3e-4, 0, 0.0),
    ("relative", 1e-3, 0, 0.0),
    ("absolute", 1e-3, 0, 0.0),
)
"""Trials of circuit breakers: unit of drift, learning rate, rank of LoRA (0: all weights) and its
dropout."""


@dataclass(frozen=True)
class Method:
    """One method and everything that is run of it."""

    trials: tuple[Defence, ...]
    """What it is tuned by; the first has the paper's own numbers of the method."""
    sweeps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Hyper-parameters that may trade resistance for stability, of the defence or of its `fit.`, to
    the values tried, everything else as tuned; the one that tells most comes first."""
    control: str = ""
    """Method whose matched control serves for this one, too; none: it has its own."""
    earlier: int = 0
    """Trials of a grid that this one replaced (`notes.HISTORY`)."""

    @property
    def paper(self) -> Defence:
        """The paper's own numbers of the method, in the lab's loop."""
        return self.trials[0]

    def swept(self, chosen: Defence) -> dict[str, Defence]:
        """The chosen settings at every other intensity, by `<parameter>=<value>`."""
        return {
            f"{name.split('.')[-1]}={value:g}": _with(chosen, name, value)
            for name, values in self.sweeps.items()
            for value in values
            if value != strength(chosen, name)
        }


def strength(defence: Defence, parameter: str) -> float:
    """The intensity of some settings, by the name of a hyper-parameter."""
    return float(attrgetter(parameter)(defence))


def methods() -> Mapping[str, Method]:
    """The methods of the usual plan, by their names in the registry."""
    return {
        "vaccine": Method(
            tuple(_aligning(Vaccine, rho=rho) for rho in (2.0, 0.5, 1.0, 5.0, 10.0, 20.0)),
            sweeps={"rho": (0.5, 5.0, 20.0)},
        ),
        "random_vaccine": Method(
            tuple(_aligning(RandomVaccine, variance=v) for v in (2.0, 1.0, 0.3, 0.1, 0.01, 0.001)),
            control="vaccine",
        ),
        "t_vaccine": Method(
            tuple(
                _aligning(TVaccine, rho=rho, active=active, freeze_policy=policy)
                for rho, active, policy in TARGETING
            ),
            sweeps={"rho": (1.0, 3.0, 30.0)},
            earlier=4,
        ),
        "circuit_breakers": Method(
            tuple(
                _rerouting(distance, lr, rank, dropout)
                for distance, lr, rank, dropout in REROUTING
            ),
            sweeps={"fit.lr": (3e-4, 2e-3, 4e-3), "alpha": (1.0, 3.0, 30.0, 100.0)},
            earlier=6,
        ),
        "rep_noise": Method(
            tuple(
                _noising(alpha, beta, retain, lr)
                for alpha, beta, retain, lr in (
                    (1.0, 1e-3, 0.0, 2e-5), (1.0, 1e-3, 3.0, 4e-4), (0.3, 1.0, 1.0, 4e-4),
                    (0.3, 1.0, 3.0, 4e-4), (0.3, 1.0, 3.0, 2e-4), (0.1, 1.0, 3.0, 4e-4),
                )
            ),
            sweeps={"beta": (0.1, 3.0), "alpha": (0.1, 1.0, 3.0)},
            earlier=6,
        ),
    }  # fmt: skip


def _aligning(kind: type[TrainedDefence], **settings: Any) -> Defence:
    """A defence that aligns: the loop is that of the lab models' own alignment."""
    return kind(fit=lab_alignment(), **settings)


def _rerouting(distance: Distance, lr: float, rank: int, dropout: float) -> CircuitBreakers:
    """T, batch and schedule are the paper's."""
    loop = Fit(steps=150, lr=lr, batch_size=16, schedule="constant", warmup=0)
    return CircuitBreakers(
        distance=distance, lora_rank=rank, lora_alpha=16.0, lora_dropout=dropout, fit=loop
    )


def _noising(alpha: float, beta: float, retain: float, lr: float) -> RepNoise:
    """Adam, cosine and a tenth of warm-up are the paper's; 120 steps instead of its 1250."""
    loop = Fit(steps=120, lr=lr, batch_size=16, optimiser="adam", schedule="cosine", warmup=12)
    if (alpha, beta, retain) == (1.0, 1e-3, 0.0):
        loop = replace(loop, batch_size=8, clip=None)  # the paper's, too
    return RepNoise(alpha=alpha, beta=beta, retain_weight=retain, fit=loop)


def _with(defence: Defence, name: str, value: float) -> Defence:
    """The defence with another value of a hyper-parameter, its own or its loop's."""
    outer, _, inner = name.rpartition(".")
    if not outer:
        return replace(defence, **{name: value})
    return replace(defence, **{outer: replace(getattr(defence, outer), **{inner: value})})
