"""`workbench results`: everything behind docs/results.md, from one command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from workbench.commands._base import Command


@dataclass(frozen=True, kw_only=True)
class Results(Command):
    """Tune, attack and compare the representation-level defences on the lab models; write it down.

    Takes hours of CPU time; given again, it goes on from what is finished.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("docs/results.md")
    """The document; its pictures are put beside it."""
    store: Path = Path("runs/results")
    """Folder of the runs: `val` for tuning, `test` for what is reported."""
    jobs: int = 2
    """Processes that work at the same time."""

    def run(self, console: Console) -> int:
        """Carry the plan out and write the document."""
        from workbench.results import carry_out, usual
        from workbench.results.document import write

        campaign = carry_out(usual(), self.store, self.jobs, console)
        write(campaign, self.output, console)
        console.print(f"Written: {self.output}", highlight=False)
        for name, reason in campaign.failed.items():
            console.print(f"{name} failed: {reason}", style="red", highlight=False, markup=False)
        return 1 if campaign.failed else 0
