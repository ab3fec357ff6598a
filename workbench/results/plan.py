"""What is run, as studies: tuning on `val`; then, on `test`, everything that is reported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.attacks import SupervisedFineTuning
from workbench.defences import Defence
from workbench.lab.checkpoints import parse
from workbench.measures import Measures
from workbench.results.methods import Method, methods
from workbench.study import Study

BASES = ("lab:aligned", "lab:aligned,base=1", "lab:aligned,base=3")
"""The pre-trainings that pass the lab's gate, of those tried (docs/lab.md)."""
MAIN, FAST, SLOW = "sft", "sft-lr=3e-4", "sft-lr=3e-5"
FROM_BASE = "from-base"
CURVE = (0, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 64, 72, 80, 96,
         112, 128, 144, 160, 176, 192, 216, 240)  # fmt: skip


def attacks() -> dict[str, SupervisedFineTuning]:
    """Fine-tuning on 64 hazards at three learning rates; budgets are about alike in lr × steps."""
    return {
        MAIN: SupervisedFineTuning(steps=96, samples=64, lr=1e-4, batch_size=16),
        FAST: SupervisedFineTuning(steps=48, samples=64, lr=3e-4, batch_size=16),
        SLOW: SupervisedFineTuning(steps=240, samples=64, lr=3e-5, batch_size=16),
    }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it: bases, seeds, methods, attacks, and what is measured."""

    bases: tuple[str, ...] = BASES
    """Aligned lab models; a defence that aligns starts from the base of each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of defence and attack, on every base."""
    tuning_seed: int = 10
    """Tuning sees the first base only, and this seed, which is not reported."""
    methods: Mapping[str, Method] = field(default_factory=methods)
    swept: int = 1
    """On how many bases intensities are swept, with the first seed."""
    attacks: Mapping[str, SupervisedFineTuning] = field(default_factory=attacks)
    """The first is the one that is tuned against and compared under."""
    measures: Measures = field(
        default_factory=lambda: Measures(
            curve_at=CURVE, probe_at=(0, 32), record_sites=(), prefill=7
        )
    )

    @property
    def main(self) -> dict[str, SupervisedFineTuning]:
        """The attack that methods are tuned against and compared under."""
        name = next(iter(self.attacks))
        return {name: self.attacks[name]}

    def tuning(self) -> Study:
        """Every trial of every method, and the undefended model, on `val`."""
        trials = {
            trial_name(name, i): trial
            for name, method in self.methods.items()
            for i, trial in enumerate(method.trials)
        }
        return Study(
            model=self.bases[0],
            defences=trials,
            attacks=self.main,
            seeds=(self.tuning_seed,),
            controls=False,
            measures=replace(self.measures, split="val", prefill=0, probe_at=(0,)),
        )

    def reported(self, chosen: Mapping[str, Defence]) -> Iterator[Study]:
        """What is reported, most important first."""
        own = {name: chosen[name] for name, m in self.methods.items() if not m.control}
        shared = {name: chosen[name] for name, m in self.methods.items() if m.control}
        one = self.seeds[:1]
        for base in self.bases:
            yield self._study(base, own, controls=True, undefended=True)
            yield self._study(base, shared)
            yield self._study(str(parse(base).start), {}, undefended=True, label=FROM_BASE)
        for name, attack in self._others():
            how = {"attacks": {name: attack}, "seeds": one}
            for base in self.bases:
                yield self._study(base, own, controls=True, undefended=True, **how)
                yield self._study(base, shared, **how)
                yield self._study(
                    str(parse(base).start), {}, undefended=True, label=FROM_BASE, **how
                )
        for base in self.bases:
            yield self._study(base, self.papers(chosen), seeds=one)
        for base in self.bases[: self.swept]:
            yield self._study(base, self.sweeps(chosen), seeds=one)

    def _study(self, base: str, defences: Mapping[str, Defence], **changes: Any) -> Study:
        settings: dict[str, Any] = {
            "attacks": self.main,
            "seeds": self.seeds,
            "controls": False,
            "undefended": False,
            "measures": self.measures,
        }
        return Study(model=base, defences=defences, **settings | changes)

    def _others(self) -> list[tuple[str, SupervisedFineTuning]]:
        return list(self.attacks.items())[1:]

    def papers(self, chosen: Mapping[str, Defence]) -> dict[str, Defence]:
        """Arms with the papers' settings, where tuning chose others."""
        return {
            f"{name}-paper": method.paper
            for name, method in self.methods.items()
            if method.paper != chosen[name]
        }

    def sweeps(self, chosen: Mapping[str, Defence]) -> dict[str, Defence]:
        """Arms at the other intensities, those that are the paper's arm left out."""
        return {
            f"{name}-{setting}": swept
            for name, method in self.methods.items()
            for setting, swept in method.swept(chosen[name]).items()
            if swept != method.paper
        }


def trial_name(method: str, index: int) -> str:
    """What the arm of a trial is called."""
    return f"{method}-trial{index}"


def usual() -> Plan:
    """The plan behind `docs/results.md`."""
    return Plan()
