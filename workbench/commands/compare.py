"""`workbench compare`: two published checkpoints side by side, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from workbench.commands._base import Command


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Compare two checkpoints without training: KL, drift, cosine and weights, in one report.

    The built-in prompts are harmless; half of them only sound dangerous, so they show how refusals
    differ and nothing about real hazards. Give your own with --data. Of checkpoints of different
    sizes, what cannot be compared is left out, and named.
    """

    model: tyro.conf.Positional[str]
    """A model directory, an adapter's, a Hub id, or a lab model."""
    reference: tyro.conf.Positional[str]
    """What it is compared with; given like the model."""
    base: str | None = None
    """A third checkpoint that both come from: adds the angle between what each of them learnt, in
    a run folder of its own."""
    data: str = "builtin"
    """`builtin`, `lab`, a folder with one file a data stream, or one file of prompts, with or
    without answers, all of which counts."""
    split: Literal["defend", "attack", "val", "test"] = "test"
    """Whose questions are read; of one file, all are."""
    prompts: int | None = None
    """Prompts of each kind, at most; None: 32, or all of one file."""
    template: str | None = None
    """Chat template for both: `plain`, or a Jinja text. None: the model's own for both."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("comparison")
    """Folder for the report and a run folder with the rows, which the dashboard shows."""

    def run(self, console: Console) -> int:
        """Measure, write the report, say where it is."""
        from workbench.comparison import compare

        compare(self.model, self.reference, self.output, console, base=self.base, data=self.data,
                split=self.split, prompts=self.prompts, template=self.template)  # fmt: skip
        return 0
