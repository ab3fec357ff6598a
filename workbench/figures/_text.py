"""Words and numbers as figures write them."""

from math import isfinite

import pandas as pd

MISSING = "—"


def escape(text: str) -> str:
    """Text that plotly shows as it is: no markup, and no dollar sign, which would start TeX."""
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "＄")):
        text = text.replace(mark, harmless)
    return text


def number(value: float, form: str = ".3g") -> str:
    """Three significant digits; a dash for what is missing or beyond the run."""
    return f"{value:{form}}" if isfinite(value) else MISSING


def seeds_and(table: pd.DataFrame, *parts: str) -> str:
    """A caption that begins with how many seeds stand behind the table."""
    count = table["seed"].nunique()
    return " · ".join([f"{count} seed{'s' if count != 1 else ''}", *parts])
