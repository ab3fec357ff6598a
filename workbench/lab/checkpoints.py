"""From a name like `lab:aligned,seed=2` to a directory: shipped, cached, or built on demand."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from workbench import provenance
from workbench.errors import InvalidValueError, ModelError, UnknownNameError
from workbench.lab.recipe import Progress, silent
from workbench.lab.world import World

PREFIX = "lab:"
SHIPPED = Path(__file__).parent / "weights"
ON_BOARD = ("base", "aligned", "oracle")
"""Checkpoints that come with the package, for the first world and seeds."""
OPTIONS = {
    "world": "seed of the world",
    "base": "seed of the pre-training",
    "seed": "seed of the alignment",
}
CHECKPOINTS = {
    "base": "complies with everything",
    "aligned": "refuses hazardous requests",
    "oracle-base": "never knew the hazardous facts of test entities",
    "oracle": "the same, aligned",
}


@dataclass(frozen=True)
class CheckpointName:
    """A parsed `lab:` name."""

    checkpoint: str
    world: int = 0
    base: int = 0
    seed: int = 0

    @property
    def aligned(self) -> bool:
        """Whether the checkpoint has been aligned."""
        return self.checkpoint in ("aligned", "oracle")

    @property
    def never_knew(self) -> bool:
        """Whether it is an oracle, which never saw the hazardous facts of test entities."""
        return self.checkpoint.startswith("oracle")

    @property
    def folder(self) -> str:
        """Name of its directory in the cache."""
        seeds = f"world{self.world}-base{self.base}"
        return f"{self.checkpoint}-{seeds}" + (f"-seed{self.seed}" if self.aligned else "")

    def __str__(self) -> str:
        options = {"world": self.world, "base": self.base, "seed": self.seed}
        return PREFIX + ",".join([self.checkpoint, *(f"{k}={v}" for k, v in options.items() if v)])

    @property
    def start(self) -> "CheckpointName":
        """The base model this one is aligned from."""
        base = "oracle-base" if self.never_knew else "base"
        return CheckpointName(base, self.world, self.base)


def parse(name: str) -> CheckpointName:
    """Read a name: `lab:<checkpoint>`, then options as `,<option>=<whole number>`.

    Raises:
        UnknownNameError: no such checkpoint or option.
        InvalidValueError: an option's value is no whole number, or the option does not apply.
    """
    checkpoint, *options = name.removeprefix(PREFIX).split(",")
    if checkpoint not in CHECKPOINTS:
        raise UnknownNameError("lab checkpoint", checkpoint, CHECKPOINTS)
    parsed = CheckpointName(checkpoint, **dict(_option(text, name) for text in options))
    if parsed.seed and not parsed.aligned:
        raise InvalidValueError(
            f"{name!r}: `seed` is the alignment's seed, and {checkpoint!r} is not aligned. "
            "For another pre-training give `base=...`."
        )
    return parsed


def _option(text: str, name: str) -> tuple[str, int]:
    option, _, value = text.strip().partition("=")
    if option not in OPTIONS:
        raise UnknownNameError("lab option", option, OPTIONS, hint=f"It stands in {name!r}.")
    if not value.isdecimal():
        raise InvalidValueError(
            f"{name!r}: {option} ({OPTIONS[option]}) must be a whole number, not {value!r}."
        )
    return option, int(value)


def checkpoint_path(name: str, progress: Progress = silent) -> Path:
    """The directory of a lab checkpoint. What is not shipped is built once and then cached.

    An alignment takes about half a minute, a pre-training about four. Processes that ask at the
    same time wait for the one that builds.

    Raises:
        UnknownNameError: no such checkpoint or option.
        InvalidValueError: an option has no valid value.
        ModelError: a shipped checkpoint is not where it was installed.
        TrainingError: the seed asked for gives a model that misses the gate.
    """
    wanted, target = parse(name), location(name)
    if target.is_dir():
        return target
    if target.parent == SHIPPED:
        raise ModelError(f"{name!r} should be in {target}; the installation is damaged: reinstall.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            _build_into(target, wanted, progress)
    return target


def location(name: str) -> Path:
    """Where a lab checkpoint is, or will be once it is built.

    Raises:
        UnknownNameError: no such checkpoint or option.
        InvalidValueError: an option has no valid value.
    """
    wanted = parse(name)
    if wanted in map(CheckpointName, ON_BOARD):
        return SHIPPED / wanted.checkpoint
    return cache_directory() / _recipe_digest(wanted.aligned) / wanted.folder


def cache_directory() -> Path:
    """Where built checkpoints live: `$WORKBENCH_CACHE/lab`, or under the user's cache."""
    root = os.environ.get("WORKBENCH_CACHE") or Path.home() / ".cache" / "immunisation-workbench"
    return Path(root) / "lab"


def world_of(name: str) -> World:
    """The world that a lab checkpoint was trained on."""
    wanted = parse(name)
    return World(wanted.world, never_knew=wanted.never_knew)


def _build_into(target: Path, wanted: CheckpointName, progress: Progress) -> None:
    """Build beside the target and rename: a directory that exists is whole."""
    # torch, which a name alone does not need
    from workbench.lab.build import build_aligned, build_base

    world = World(wanted.world, never_knew=wanted.never_knew)
    with tempfile.TemporaryDirectory(dir=target.parent) as parent:
        made = Path(parent) / target.name
        if wanted.aligned:
            base = checkpoint_path(str(wanted.start), progress)
            build_aligned(made, base, world, seed=wanted.seed, progress=progress)
        else:
            build_base(made, world, seed=wanted.base, progress=progress)
        made.rename(target)


def _recipe_digest(aligned: bool) -> str:
    """Address of what is built by this training code and from these shipped weights.

    A base model does not depend on how it will be aligned.
    """
    trained_by = ["workbench.lab.pretrain", *(["workbench.lab.align"] if aligned else [])]
    code = provenance.code_hash(*trained_by)
    start = json.loads((SHIPPED / "base" / "manifest.json").read_text())["sha256"]
    return provenance.config_hash({"code": code, "start": start})[:12]
