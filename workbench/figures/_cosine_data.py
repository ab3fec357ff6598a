"""Rows about cosines as lines of a table, with break points and tokens beside them."""

import pandas as pd

from workbench.figures._frames import Frames
from workbench.rows import Token


def long(rows: pd.DataFrame, keys: list[str], place: str, measure: str) -> pd.DataFrame:
    """One line a place of the rows' axis: the cosine, or the norm over the reference's.

    Args:
        rows: with `measure` and `values`.
        keys: columns that, with the measure, tell rows apart.
        place: what the axis is called.
        measure: `cosine` or `norm_ratio`.
    """
    rows = rows[[*keys, "measure", "values"]]
    rows = rows.assign(**{place: rows["values"].map(lambda v: range(len(v)))})
    table = rows.explode(["values", place]).rename(columns={"values": "value"})
    table = table.astype({"value": float, place: int})
    if measure == "cosine":
        return table.loc[table["measure"] == "cosine", [*keys, place, "value"]]
    now, then = (
        table[table["measure"] == name].set_index([*keys, place])["value"]
        for name in ("norm", "norm_reference")
    )
    return (now / then).rename("value").reset_index()


def with_breaks(table: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """How many seeds have their break point in each cell, and each arm's p values."""
    found = points.pivot_table(index=["arm", "run"], columns="measure", values="value")
    found = found.reindex(columns=["p", "layer", "token"]).reset_index()
    there = found.dropna().rename(columns={"token": "response"})
    there = there.astype({"layer": int, "response": int})
    counts = there.groupby(["arm", "layer", "response"]).size().rename("breaks").reset_index()
    table = table.merge(counts, how="left", on=["arm", "layer", "response"])
    table["breaks"] = table["breaks"].fillna(0).astype(int)
    by_arm = found.groupby("arm")
    for name, values in (
        ("tested", by_arm["p"].size()),
        ("p_low", by_arm["p"].min()),
        ("p_high", by_arm["p"].max()),
    ):
        table[name] = table["arm"].map(values)
    return table.assign(tested=table["tested"].fillna(0).astype(int))


def with_pieces(table: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """The tokens themselves, where the runs of an arm wrote them down; each has a tokenizer."""
    tokens, where = frames[Token], ["arm", "example", "position"]
    tokens = tokens[tokens["example"].isin(table["example"].unique())]
    pieces = tokens.groupby(where, as_index=False)["piece"].first()
    table = table.merge(pieces, how="left", on=where)
    return table.assign(piece=table["piece"].fillna("").astype(str))
