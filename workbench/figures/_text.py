"""Words and numbers as figures write them."""

import pandas as pd

MISSING = "—"


def escape(text: str) -> str:
    """Text that plotly shows as it is: no markup, and no dollar sign, which would start TeX."""
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "＄")):
        text = text.replace(mark, harmless)
    return text


def points(share: float) -> str:
    """A change of a share in percentage points, with its sign."""
    text = f"{100 * share:+.1f}".replace("-", "−")
    return f"{'0.0' if text[1:] == '0.0' else text} pt"


def seeds_and(table: pd.DataFrame, *parts: str) -> str:
    """A caption that begins with how many seeds stand behind the table."""
    count = table["seed"].nunique()
    return " · ".join([f"{count} seed{'s' if count != 1 else ''}", *parts])
