"""A study: arms × seeds × attacks, measured alike, resumable, each unit in its own run folder.

    arm      where a model comes from: `undefended`, a defence, or a defence's matched control
    unit     one (arm, seed) immunised, or one attack on it; its folder is named after a hash of
             its configuration, data, start weights, library majors and code

A rerun does only what is missing. Runs made by other code keep their folders and are shown as
stale; nothing mixes them with current ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from workbench import provenance
from workbench.attacks import ATTACKS, Attack
from workbench.builtin import BuiltIn
from workbench.catalogue import USUAL_PROBES
from workbench.chat_templates import template_of
from workbench.data import tokenizer_digest
from workbench.defences import DEFENCES, Defence
from workbench.domains import Domain
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.file_domain import FileDomain
from workbench.lab.checkpoints import CheckpointName, parse, world_of
from workbench.lab.domain import LabDomain
from workbench.measures import Measures
from workbench.models import tokenizer_of
from workbench.probes import PROBES, Probe
from workbench.store import RunHeader, run_id

UNDEFENDED = "undefended"
CONTROL = "-control"


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    name: str
    defence: Defence | None


def usual_probes() -> dict[str, Probe]:
    """The probes of a study that names none."""
    return {name: probe(name) for name in USUAL_PROBES}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which defences are attacked how, with which seeds, on which model and data."""

    model: str = "lab"
    """`lab` (an alignment of its own for every seed), a lab checkpoint, a directory, a Hub id."""
    data: str = "lab"
    """`lab`, or a folder with one file a stream."""
    template: str | None = None
    """Chat template of every model: `plain`, or a Jinja text; None for the models' own."""
    defences: Mapping[str, Defence] = field(default_factory=dict)
    attacks: Mapping[str, Attack] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    measures: Measures = field(default_factory=Measures)
    probes: Mapping[str, Probe] = field(default_factory=usual_probes)
    """What is looked at inside the models, at the steps that `measures.probe_at` names."""
    undefended: bool = True
    """Whether the model is attacked as it is, too."""
    label: str = UNDEFENDED
    """What that arm is called."""
    controls: bool = True
    """Whether every defence runs beside its matched control."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InvalidValueError(f"seeds must be different numbers from 0, not {self.seeds}.")
        for kind, base in (("defence", Defence), ("attack", Attack), ("probe", Probe)):
            _require_methods(kind, base, getattr(self, f"{kind}s"))

    def arms(self) -> list[Arm]:
        """Undefended first, then every defence and its control."""
        arms = [Arm(self.label, None)] if self.undefended else []
        for name, defence in self.defences.items():
            arms.append(Arm(name, defence))
            if self.controls:
                arms.append(Arm(name + CONTROL, defence.matched_control()))
        return arms

    def start(self, arm: Arm, seed: int) -> str:
        """Name of the checkpoint an arm starts from.

        With the model `lab`, alignments are seeded like the arm; any other name is taken as it is,
        but a defence that aligns starts from a lab model's base.
        """
        if self.is_lab and arm.defence is not None and arm.defence.start == "base":
            return str(self._lab)
        if self.model == "lab":
            return str(replace(self._lab, checkpoint="aligned", seed=seed))
        return self.model

    def reference(self) -> str | None:
        """Name of the checkpoint before any alignment, which KL is measured against."""
        if not self.is_lab:
            return None
        return str(self._lab)

    @property
    def _lab(self) -> CheckpointName:
        """The base checkpoint of the study's world and pre-training seed."""
        return parse(self.model if ":" in self.model else "lab:base").start

    @property
    def is_lab(self) -> bool:
        """Whether the study is about a lab model."""
        return self.model == "lab" or self.model.startswith("lab:")

    def domain(self) -> Domain:
        """The data of the study."""
        return open_domain(self.data, self.model)

    def reading(self, start: str) -> tuple[str, str]:
        """How a checkpoint reads texts: its chat template, and its tokenizer's digest.

        Raises:
            UnknownNameError: no such model or template.
            ModelError: it has no tokenizer, or one without a chat template.
        """
        if start not in self._readings:
            tokenizer = tokenizer_of(start, self.template)
            self._readings[start] = template_of(tokenizer), tokenizer_digest(tokenizer)
        return self._readings[start]

    @cached_property
    def _readings(self) -> dict[str, tuple[str, str]]:
        return {}


def _require_methods(kind: str, base: type, given: object) -> None:
    """Refuse a method's name or class where the method with its settings is expected."""
    wanted = f"a mapping of names to {kind}s, e.g. {{'mine': workbench.study.{kind}(NAME)}}"
    if not isinstance(given, Mapping):
        raise InvalidValueError(f"{kind}s must be {wanted}, not {given!r:.60}.")
    for name, method in given.items():
        if not isinstance(method, base):
            raise InvalidValueError(f"{kind}s must be {wanted}; {name!r} is {method!r:.60}.")


def open_domain(data: str, model: str = "lab", *, whole: bool = False) -> Domain:
    """The domain a name or a folder stands for; a lab domain is of the model's world.

    Args:
        data: `lab`, `builtin`, a folder with one file a stream, or one file of hazards.
        model: which is looked at.
        whole: of files, ask every row, whatever its split; nothing can be trained on them then.
    """
    if data == "lab":
        return LabDomain(world_of(model if model.startswith("lab:") else "lab:base"))
    if data == "builtin":
        return BuiltIn()
    path = Path(data)  # one file alone holds what would be the folder's `harmful`
    files = FileDomain(path.stem, {"harmful": path}) if path.is_file() else FileDomain.open(data)
    return replace(files, whole=whole)


def lookup(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """What a registry holds under a name.

    Raises:
        UnknownNameError: nothing; the message suggests the nearest name.
    """
    if name not in registry:
        raise UnknownNameError(kind, name, registry)
    return registry[name]


def defence(name: str, **parameters: Any) -> Defence:
    """A defence by name, e.g. `defence("vaccine", rho=5.0)`."""
    return lookup("defence", name, DEFENCES)(**parameters)


def attack(name: str, **parameters: Any) -> Attack:
    """An attack by name, e.g. `attack("sft", lr=3e-4)`."""
    return lookup("attack", name, ATTACKS)(**parameters)


def probe(name: str, **parameters: Any) -> Probe:
    """A probe by name, e.g. `probe("drift", positions="response")`."""
    return lookup("probe", name, PROBES)(**parameters)


def described(method: Defence | Attack | None, name: str) -> dict[str, Any] | None:
    """A method as a header holds it: its name and every hyper-parameter."""
    return None if method is None else {"name": name} | asdict(method)


def registered(method: Defence | None, otherwise: str) -> str:
    """The name under which a defence is registered: arms of one method share it."""
    names = {kind: name for name, kind in DEFENCES.items()}
    return names.get(type(method), otherwise) if method is not None else otherwise


@cache
def code_of(*modules: str) -> str:
    """Hash of some modules and what they import, as this process loaded them."""
    return provenance.code_hash(*modules)


@dataclass(frozen=True, eq=False)
class Unit:
    """One run to be made: an immunised arm, or an attack on one."""

    study: Study
    arm: Arm
    seed: int
    attack_name: str | None = None

    @property
    def attack(self) -> Attack | None:
        """The attack of an attack unit."""
        return None if self.attack_name is None else self.study.attacks[self.attack_name]

    @property
    def parent(self) -> "Unit | None":
        """The immunised arm an attack starts from."""
        return None if self.attack_name is None else Unit(self.study, self.arm, self.seed)

    @property
    def chain(self) -> str:
        """What is made one after the other in one process: an arm with one seed."""
        return f"{self.arm.name}-s{self.seed}"

    @property
    def cost(self) -> float:
        """Rough cost in steps, for the order of work and the estimate."""
        method = self.attack or self.arm.defence
        steps = 1.0 if method is None else getattr(method, "steps", 1.0)
        return 40.0 + steps * (1.0 if self.attack is None else 2.0)

    def header(self, start_digest: str, data_digest: str) -> RunHeader:
        """The run's header, with the id that everything it depends on determines."""
        base = self.arm.name.removesuffix(CONTROL)
        method = described(self.arm.defence, registered(self.arm.defence, base))
        assault = described(self.attack, self.attack_name or "")
        start = self.study.start(self.arm, self.seed)
        template, tokenizer = self.study.reading(start)
        config = {
            "start": start,
            "template": template,
            "reference": self.study.reference(),
            "defence": method,
            "attack": assault,
            "seed": self.seed,
            "measures": asdict(self.study.measures),
            "probes": dict(self.study.probes),
        }
        hashes = {
            "config": provenance.config_hash(config),
            "data": data_digest,
            "start": start_digest,
            "tokenizer": tokenizer,
            "code": code_of(*self.modules()),
            "libraries": provenance.config_hash(provenance.library_majors()),
        }
        stem = f"{self.arm.name}-s{self.seed}"
        parents = []
        if self.parent is not None:
            parents = [self.parent.header(start_digest, data_digest).id]
            stem += f".{self.attack_name}"
        return RunHeader(
            id=run_id(stem, hashes, parents),
            kind="immunise" if self.attack_name is None else "attack",
            model=start,
            arm=self.arm.name,
            defence=method,
            attack=assault,
            seed=self.seed,
            hashes=hashes,
            modules=self.modules(),
            template=template,
            parents=parents,
            versions=provenance.library_versions(),
            git=provenance.git_state(),
        )

    def modules(self) -> list[str]:
        """The modules whose code decides the numbers of this unit."""
        method = self.attack if self.attack_name is not None else self.arm.defence
        methods = [*self.study.probes.values(), *([] if method is None else [method])]
        own = sorted({type(m).__module__ for m in methods})
        return [*own, type(self.study.domain()).__module__, "workbench.runs"]
