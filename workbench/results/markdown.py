"""Small pieces of Markdown."""

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
