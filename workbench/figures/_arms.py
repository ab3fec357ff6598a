"""Arms as their headers describe them: replicates over bases, matched controls, intensities.

Frames tell runs apart by every setting, the base model's too. Where bases are replicates, as seeds
are, an arm is what its header says without the base.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.figures._frames import SEED, flattened
from workbench.report import CONTROL
from workbench.store import RunHeader

Role = Literal["undefended", "defence", "control"]
UNDEFENDED = "undefended"
LAB = "lab:"


@dataclass(frozen=True)
class Arm:
    """One arm over all of its bases and seeds."""

    name: str
    """As figures name it, without the base."""
    plain: str
    """As its header names it, without settings."""
    method: str
    """The defence's name; the arm's own where there is none."""
    role: Role
    data: str = ""
    """Digest of the data it was made and attacked with."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The defence's hyper-parameters, as one level of dotted keys."""


def arms_of(runs: Iterable[RunHeader], names: Mapping[str, str]) -> dict[str, Arm]:
    """The arm of each run that has a name among a figure's rows."""
    return {run.id: _arm(run, names[run.id]) for run in runs if run.id in names}


def _arm(run: RunHeader, name: str) -> Arm:
    role: Role = "defence"
    if run.arm.endswith(CONTROL):
        role = "control"
    elif run.defence is None or run.arm == UNDEFENDED:
        role = "undefended"
    settings = flattened(run.defence)
    method = str(settings.pop("name", run.arm.removesuffix(CONTROL)))
    name = name.replace(f" model={SEED.sub('', run.model)}", "")
    return Arm(name, run.arm, method, role, run.hashes.get("data", ""), settings)


def base_of(model: str) -> str:
    """What distinguishes the model an arm starts from, besides its alignment and its seed.

    A lab model's name is its checkpoint and then its options, `lab:aligned,base=1,seed=2`: arms
    that align start from another checkpoint of the same base as arms that do not.
    """
    name = SEED.sub("", model)
    return name.partition(",")[2] if name.startswith(LAB) else name


def reference_of(arm: Arm, arms: Iterable[Arm]) -> Arm | None:
    """The matched control, else an undefended arm on the same data; None if there is neither.

    A control of its own name comes before one of the same method (which serves all intensities);
    of several, the one whose settings are most alike.
    """
    others = [other for other in arms if other.data == arm.data]
    controls = [other for other in others if other.role == "control" and other.method == arm.method]
    own = [other for other in controls if other.plain == arm.plain + CONTROL]
    undefended = [other for other in others if other.role == "undefended"]
    return min(
        own or controls or undefended,
        key=lambda other: (_differences(arm.settings, other.settings), other.name),
        default=None,
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


def intensities(arms: Iterable[Arm]) -> dict[str, tuple[str, str, int]]:
    """By name of a defence: the line it belongs to, its intensity in words, its place on it.

    The intensity is every number in which defences of one method differ; what else they differ in
    makes them lines of their own.
    """
    methods: dict[str, list[Arm]] = {}
    for arm in dict.fromkeys(arms):
        if arm.role == "defence":
            methods.setdefault(arm.method, []).append(arm)
    return {name: found for group in methods.values() for name, found in _ranked(group).items()}


def _ranked(group: Sequence[Arm]) -> dict[str, tuple[str, str, int]]:
    """The same for the defences of one method."""
    keys = dict.fromkeys(key for arm in group for key in arm.settings)
    differ = [k for k in keys if len({repr(arm.settings.get(k)) for arm in group}) > 1]
    numbers = [k for k in differ if all(_is_number(arm.settings.get(k)) for arm in group)]
    others = [k for k in differ if k not in numbers]
    lines: dict[str, list[tuple[list[float], str, str]]] = {}
    for arm in group:
        line = " ".join([arm.method, *(f"{_short(k)}={arm.settings.get(k)}" for k in others)])
        words = ", ".join(f"{_short(k)}={arm.settings[k]:g}" for k in numbers)
        lines.setdefault(line, []).append(
            ([float(arm.settings[k]) for k in numbers], arm.name, words)
        )
    return {
        name: (line, words, place)
        for line, members in lines.items()
        for place, (_, name, words) in enumerate(sorted(members))
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(key: str) -> str:
    return key.rsplit(".", maxsplit=1)[-1]
