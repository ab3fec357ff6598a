"""Which checkpoint a figure speaks of: the released model, or the attacked one at some step."""

from typing import Literal

import pandas as pd

from workbench.figures._frames import Frames
from workbench.rows import Row

Checkpoint = Literal["released", "attacked"]


def of_checkpoint(
    frames: Frames, kind: type[Row], checkpoint: Checkpoint, attack: str | None, step: int | None
) -> pd.DataFrame:
    """Rows of released models, or of attacked ones at a step.

    A defence that was recorded has rows of several steps: the last is the one that is released.

    Args:
        frames: where they are.
        kind: of row.
        checkpoint: which.
        attack: of attacked ones; none for the first by name.
        step: of attacked ones; none for each run's last.
    """
    if checkpoint == "released":
        rows, step = frames[kind], None
        rows = rows[rows["stage"] == "defence"]
    else:
        rows = frames.attacked(kind, attack)
    last = rows.groupby("run")["step"].transform("max")
    return rows[rows["step"] == (last if step is None else step)]


def where(table: pd.DataFrame, checkpoint: Checkpoint) -> str:
    """The checkpoint in a caption's words; the table has a column `step`."""
    steps = ", ".join(str(step) for step in sorted(table["step"].unique()))
    return f"attack step {steps}" if checkpoint == "attacked" else "released models"
