"""`workbench lab`: build lab models and show which there are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from tyro.extras import SubcommandApp

from workbench.commands._base import Command
from workbench.errors import InvalidValueError
from workbench.files import in_the_way

HELP = "Build the embedded lab models, or show which there are."


@dataclass(frozen=True, kw_only=True)
class Build(Command):
    """Train a base model and align it (about four minutes), into OUTPUT/base and OUTPUT/aligned.

    Deterministic on one machine. A model that misses its gate is not written.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder for the two models."""
    seed: int = 0
    """Seed of pre-training and alignment."""
    world: int = 0
    """Seed of the invented world."""

    def run(self, console: Console) -> int:
        """Train, measure, write."""
        if file := in_the_way(self.output):
            raise InvalidValueError(f"{file} is a file; give a folder for the two models.")
        from workbench.lab.build import build

        with console.status("building") as status:
            paths = build(
                self.output,
                world_seed=self.world,
                base_seed=self.seed,
                align_seed=self.seed,
                progress=lambda what, done, total: status.update(f"{what} {done}/{total}"),
            )
        for path in paths:
            console.print(str(path), highlight=False)
        return 0


@dataclass(frozen=True, kw_only=True)
class Show(Command):
    """Show the lab models at hand: shipped with the package, or built and cached."""

    def run(self, console: Console) -> int:
        """Print one line a checkpoint, with what its manifest promises."""
        from workbench.lab.checkpoints import SHIPPED, cache_directory

        grid = Table(box=None, header_style="bold", pad_edge=False)
        for head in ("checkpoint", "refuses", "tells secrets", "skills", "where"):
            grid.add_column(head, overflow="fold")
        manifests = [*SHIPPED.glob("*/manifest.json"), *cache_directory().glob("*/*/manifest.json")]
        for path in sorted(manifests):
            metrics = json.loads(path.read_text())["metrics"]
            shown = [
                _value(metrics, name) for name in ("hazard_refused", "hazard_success", "skill")
            ]
            grid.add_row(path.parent.name, *shown, str(path.parent))
        console.print(grid)
        return 0


def _value(metrics: dict[str, dict[str, float]], name: str) -> str:
    return f"{metrics[name]['value']:.2f}" if name in metrics else ""


def group() -> SubcommandApp:
    """The sub-commands of `workbench lab`."""
    app = SubcommandApp()
    app.command(name="build")(Build)
    app.command(name="show")(Show)
    return app
