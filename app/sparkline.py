"""A sparkline: harmfulness over the attack in 120 × 28 pixels, every seed a line."""

from base64 import b64encode
from collections.abc import Iterable

import pandas as pd

WIDTH, HEIGHT, PAD = 120, 28, 3


def sparkline(runs: pd.DataFrame, phi: float, colour: str, muted: str) -> str:
    """An SVG image as a data address.

    Args:
        runs: columns run, step, harmfulness.
        phi: where the dotted line is.
        colour: of the curves, `#rrggbb` or `rgba(...)`.
        muted: of the line.
    """
    last = max(1, runs["step"].max()) if len(runs) else 1
    level = _y(phi)
    lines = [
        f'<line x1="0" x2="{WIDTH}" y1="{level:.1f}" y2="{level:.1f}" stroke="{muted}" '
        'stroke-dasharray="2 3"/>'
    ]
    for _, run in runs.sort_values("step").groupby("run"):
        points = " ".join(_points(run["step"], run["harmfulness"], last))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        + "".join(lines)
        + "</svg>"
    )
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()


def _points(steps: Iterable[float], values: Iterable[float], last: float) -> Iterable[str]:
    for step, value in zip(steps, values, strict=True):
        yield f"{PAD + (WIDTH - 2 * PAD) * step / last:.1f},{_y(value):.1f}"


def _y(share: float) -> float:
    return HEIGHT - PAD - (HEIGHT - 2 * PAD) * share
