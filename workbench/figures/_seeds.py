"""One line a seed, and below them the line of all seeds, whose seed is missing."""

import pandas as pd
import plotly.graph_objects as go

from workbench.figures._lines import line, thin
from workbench.figures._style import Theme
from workbench.figures._text import escape


def without_seed(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose lines stand for all seeds: the seed is missing."""
    return table.assign(seed=pd.array([pd.NA] * len(table), dtype="Int64"))


def with_means(seeds: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Lines of single seeds and, below, their mean wherever every seed of the arm was measured.

    Args:
        seeds: columns `arm`, `seed`, `prompts`, the keys and the value.
        keys: what a mean is of, the arm first.
        value: what is averaged; of `prompts` the most are kept.
    """
    seeds = seeds.astype({"seed": "Int64"})
    if not len(seeds):
        return seeds
    means = seeds.groupby(keys, as_index=False).agg(
        **{"seeds": ("seed", "nunique"), "prompts": ("prompts", "max"), value: (value, "mean")}
    )
    every = means["arm"].map(seeds.groupby("arm")["seed"].nunique())
    means = without_seed(means[means["seeds"] == every])
    return pd.concat([seeds, means[seeds.columns]], ignore_index=True)


def seed_lines(table: pd.DataFrame, x: str, y: str, theme: Theme) -> go.Figure:
    """One line an arm, a thin one for each of its seeds if it has several."""
    figure = go.Figure()
    for arm, part in table.groupby("arm", sort=False):
        look, name = theme.series(str(arm)), escape(str(arm))
        seeds = part[part["seed"].notna()]
        if seeds["seed"].nunique() > 1:
            for _, one in seeds.groupby("seed"):
                figure.add_trace(thin(one.set_index(x)[y], look, name))
        mean = part[part["seed"].isna()].set_index(x)[y]
        figure.add_trace(line(mean, look, theme, name=name, legend=True))
    return figure
