"""Runs that only looked at a checkpoint: which repeat one another, what tells the others apart.

A look is what `workbench probe` and `workbench compare` write: some probes, with their settings,
against a reference, on the prompts of a split under a chat template. Two looks at one checkpoint
fall into one of three cases.

- One *holds* the other: it has the other's probes, under the same settings. The other says nothing
  new and is not shown; of two that hold each other the newer is kept.
- Their rows keep them apart: they share no probe, or differ in a setting that the rows carry and
  every figure of these rows lets a reader choose (`CHOSEN`). Both go by the arm's own name.
- Else a figure would draw them on top of one another: the settings in which they differ (another
  reference, template, split, number of prompts, or a setting of a probe) follow the arm's name.

A setting that only one of two looks tells of (it is newer, or of another command) is no difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from typing import Any

from workbench.store import RunHeader

CHOSEN: Mapping[str, tuple[str, ...]] = {
    "amplification": ("positions",),
    "cosine": ("sites",),
    "drift": ("sites", "positions"),
    "drift-map": ("sites", "method"),
    "latent-nll": ("positions", "epsilons"),
    "linear-probe": ("sites", "positions", "estimator"),
    "similarity": ("sites", "positions"),
}
"""Probe to those of its settings that all of its rows carry and all of their figures let choose."""
APART = ("name", "probes", "recording", "left_out")
"""What is not asked by the look as such: how its run is called, and what came of it. Of a
recording, which only grows, a later look sees all."""
LONGEST = 60
"""Letters of a value that stand in a name, counted from its end: of a path that is what tells."""


@dataclass(frozen=True)
class Look:
    """What was looked at with what."""

    about: Mapping[str, Any]
    """What all of its probes share: reference, split, prompts, template."""
    probes: Mapping[str, Mapping[str, Any]]
    """Probe to its settings."""

    @classmethod
    def of(cls, run: RunHeader) -> "Look | None":
        """The look that a run is; None for runs that trained or attacked something."""
        if run.probe is None:
            return None
        about = {k: v for k, v in run.probe.items() if k not in APART}
        return cls(about, run.probe.get("probes") or {run.probe.get("name", ""): {}})

    def holds(self, other: "Look") -> bool:
        """Whether everything the other found is found here, too."""
        return (
            not _differing(self.about, other.about)
            and other.probes.keys() <= self.probes.keys()
            and all(self._covers(name, settings) for name, settings in other.probes.items())
        )

    def _covers(self, name: str, settings: Mapping[str, Any]) -> bool:
        own = self.probes[name]
        return all(
            key in CHOSEN.get(name, ()) and _values(settings[key]) <= _values(own[key])
            for key in _differing(own, settings)
        )

    def confused(self, other: "Look") -> set[tuple[str, str]]:
        """(probe, setting) in which two looks differ whose rows do not keep them apart.

        The probe is empty for what all probes of a look share.
        """
        if self.holds(other) or other.holds(self):
            return set()
        found: set[tuple[str, str]] = set()
        for name in self.probes.keys() & other.probes.keys():
            mine, theirs = self.probes[name], other.probes[name]
            differing = _differing(mine, theirs)
            apart = (key for key in differing if key in CHOSEN.get(name, ()))
            if not any(_values(mine[key]).isdisjoint(_values(theirs[key])) for key in apart):
                found |= {("", key) for key in _differing(self.about, other.about)}
                found |= {(name, key) for key in differing}
        return found

    def told(self, keys: Iterable[tuple[str, str]]) -> str:
        """Settings as they follow a name; those it does not tell of are left out."""
        of = {"": self.about, **self.probes}
        return "".join(
            f" {key}={_said(of[name][key])}"
            for name, key in sorted(keys)
            if key in of.get(name, {})
        )


def suffixes(runs: Iterable[RunHeader], names: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """What follows the name of the arm, for each run that is a look.

    Args:
        runs: any runs.
        names: arm and attack of each of them so far.
    """
    arms: dict[str, list[tuple[RunHeader, Look]]] = {}
    for run in runs:
        if (look := Look.of(run)) is not None:
            arms.setdefault(names[run.id][0], []).append((run, look))
    found: dict[str, str] = {}
    for members in arms.values():
        keys: set[tuple[str, str]] = set()
        for (one, mine), (other, theirs) in combinations(members, 2):
            if (one.kind, names[one.id][1]) == (other.kind, names[other.id][1]):
                keys |= mine.confused(theirs)
        found |= {run.id: look.told(keys) for run, look in members}
    return found


def repeated(runs: Iterable[RunHeader]) -> dict[str, str]:
    """Which of several looks at one checkpoint others hold, and the reason not to show them.

    Args:
        runs: looks at one arm under one attack and seed, oldest first.
    """
    kept: list[tuple[RunHeader, Look]] = []
    why: dict[str, str] = {}
    for run in reversed(list(runs)):
        look = Look.of(run)
        if look is None:
            continue
        holder = next((one for one, held in kept if held.holds(look)), None)
        if holder is not None:
            why[run.id] = f"a newer run repeats it: {holder.id}"
            continue
        why |= {one.id: f"another run holds it, too: {run.id}" for one, x in kept if look.holds(x)}
        kept = [*(each for each in kept if not look.holds(each[1])), (run, look)]
    return why


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of which both tell, differently; a list and a tuple are the same."""
    return [key for key in one if key in other and _plain(one[key]) != _plain(other[key])]


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _values(setting: Any) -> set[Any]:
    return set(setting) if isinstance(setting, list | tuple) else {setting}


def _said(value: Any) -> str:
    """A value as one word: a list by its items, a path by its end, a template by its digest."""
    text = "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if any(letter.isspace() for letter in text):
        return sha256(text.encode()).hexdigest()[:8]
    return text[-LONGEST:] or "none"
