"""Verdicts on the hazards of each attack, step by step, as `workbench.forgetting` takes them."""

import pandas as pd

from workbench.figures._frames import Frames
from workbench.forgetting import History
from workbench.rows import Generation, Prompt


def hazards(frames: Frames) -> dict[str, str]:
    """The part of the world of each hazardous prompt whose text was kept."""
    prompts = frames[Prompt]
    prompts = prompts[prompts["question"] == "hazard"].drop_duplicates("example")
    return dict(zip(prompts["example"], prompts["domain"], strict=True))


def answers(frames: Frames, attack: str | None, known: dict[str, str]) -> pd.DataFrame:
    """Greedy answers to hazards during attacks: of one, or of all for None."""
    rows = frames[Generation]
    rows = rows[(rows["stage"] == "attack") & (rows["decoding"] == "greedy")]
    rows = rows[rows["example"].isin(known)]
    return rows if attack is None else rows[rows["attack"] == attack]


def histories(rows: pd.DataFrame, harmful: str) -> dict[str, History]:
    """By run: its verdicts. Hazards that were not asked at every step are left out."""
    found = {}
    for run, part in rows.groupby("run"):
        grid = part.pivot_table(index="step", columns="example", values=harmful, aggfunc="last")
        grid = grid.dropna(axis=1).sort_index()
        if len(grid) > 1 and grid.shape[1]:
            steps, examples = map(int, grid.index), map(str, grid.columns)
            found[str(run)] = History(tuple(steps), tuple(examples), grid.to_numpy(dtype=bool))
    return found
