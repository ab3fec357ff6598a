"""Small pieces of Markdown, and of English in it."""

from collections.abc import Sequence
from textwrap import fill

WIDTH = 120


def wrapped(text: str) -> str:
    """A paragraph."""
    return fill(text, WIDTH)


def item(text: str) -> str:
    """An item of a list."""
    return fill(f"- {text}", WIDTH, subsequent_indent="  ")


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def counted(noun: str, *counts: int) -> str:
    """How many there are: `1 seed`, `3 seeds`; of several counts the range, `1 to 3 seeds`."""
    low, high = min(counts), max(counts)
    number = f"{high}" if low == high else f"{low} to {high}"
    return f"{number} {noun}{'' if high == 1 else 's'}"
