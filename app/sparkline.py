"""A sparkline: harmfulness over the attack in 160 × 40 pixels, every seed a line."""

from base64 import b64encode
from collections.abc import Iterable

import pandas as pd

WIDTH, HEIGHT, PAD = 160, 40, 4


def polylines(runs: pd.DataFrame) -> list[str]:
    """The points of each run's line, from columns run, step, harmfulness."""
    last = max(1, runs["step"].max()) if len(runs) else 1
    return [
        " ".join(
            f"{PAD + (WIDTH - 2 * PAD) * step / last:.1f},{_y(value):.1f}"
            for step, value in zip(run["step"], run["harmfulness"], strict=True)
        )
        for _, run in runs.sort_values("step").groupby("run")
    ]


def sparkline(lines: Iterable[str], phi: float, colour: str, muted: str) -> str:
    """An SVG image as a data address.

    Args:
        lines: from `polylines`.
        phi: where the dotted line is.
        colour: of the curves, `#rrggbb` or `rgba(...)`.
        muted: of the dotted line.
    """
    level = f'x1="0" x2="{WIDTH}" y1="{_y(phi):.1f}" y2="{_y(phi):.1f}"'
    drawn = (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        for points in lines
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<line {level} stroke="{muted}" stroke-dasharray="2 3"/>{"".join(drawn)}</svg>'
    )
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()


def _y(share: float) -> float:
    return HEIGHT - PAD - (HEIGHT - 2 * PAD) * share
