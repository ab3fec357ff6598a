"""How everything looks: palette, series styles by arm, and themes for screen and paper.

Figures name roles; a theme answers with colours, type and sizes, so that one drawing serves a light
page, a dark page and a paper. Series colours are Petroff's eight (Petroff 2021, arXiv:2107.02270),
fixed for each method for ever: a method keeps its look in every figure and every release.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import plotly.graph_objects as go

from workbench.figures.colour import contrast, readable, rgba
from workbench.report import CONTROL

UNDEFENDED = "undefended"
PETROFF = (
    "#1845fb", "#ff5e02", "#c91f16", "#c849a9", "#adad7d", "#86c8dd", "#578dff", "#656364",
)  # fmt: skip
BLUE, ORANGE, RED, MAGENTA, OLIVE, SKY, AZURE, GREY = PETROFF
DASHES = ("solid", "longdash", "dashdot", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "star")
METHODS: dict[str, tuple[str, str, str]] = {
    UNDEFENDED: (GREY, "solid", "x"),
    "vaccine": (BLUE, "solid", "circle"),
    "circuit_breakers": (ORANGE, "solid", "square"),
    "tar": (RED, "solid", "diamond"),
    "rep_noise": (MAGENTA, "solid", "triangle-up"),
    "booster": (SKY, "solid", "pentagon"),
    "lox": (OLIVE, "solid", "hexagon"),
    "seam": (AZURE, "solid", "star"),
}
"""Colour, dash and marker of each method. Entries are added, never changed."""
VARIANTS: dict[str, tuple[str, str, str]] = {
    "t_vaccine": (BLUE, "longdash", "diamond"),
    "random_vaccine": (BLUE, "dashdot", "star"),
}
"""The same of methods that are another's variant and share its colour. Never changed either."""

OUTCOMES = {"held": "#0f8b8d", "broken-useless": "#b26a00", "broken-useful": "#c91f16",
            "unconfirmed": "#656364"}  # fmt: skip
MARKS = {"held": "circle", "broken-useless": "circle-open-dot", "broken-useful": "circle-open",
         "unconfirmed": "diamond-open"}  # fmt: skip
VERDICTS = {**{outcome: outcome for outcome in OUTCOMES}, "equivalent": "held", "better": "held",
            "worse": "broken-useful"}  # fmt: skip
"""Verdicts of any pillar to the outcome whose colour they share."""
SEQUENTIAL = "Cividis"
DIVERGING = ((0.0, "#1b5fa8"), (0.5, "#f7f7f7"), (1.0, "#d9730d"))
"""Blue, white, orange; centre it at 0."""


@dataclass(frozen=True)
class Series:
    """How one arm is drawn."""

    colour: str
    dash: str
    symbol: str
    opacity: float
    edge: str
    """Edge of the marker: the colour itself, or ink where the colour alone is too pale."""

    def faded(self, share: float) -> str:
        """The colour at a share of its opacity: for bands and single seeds."""
        return rgba(self.colour, self.opacity * share)

    @property
    def ink(self) -> str:
        """The colour of lines and markers."""
        return rgba(self.colour, self.opacity)


def method_of(arm: str) -> tuple[str, bool]:
    """The method an arm belongs to, and whether the arm is its matched control."""
    name = arm.partition(" ")[0]
    return name.removesuffix(CONTROL), name.endswith(CONTROL)


def base_style(method: str, settings: str = "") -> tuple[str, str, str]:
    """Colour, dash and marker; of a method not in the table, always the same ones by its name.

    Of such a method, as checkpoints are that were only looked at, settings that tell arms apart
    choose dash and marker, but not the colour.
    """
    if known := {**METHODS, **VARIANTS}.get(method):
        return known
    number, colour = divmod(_number(method), len(PETROFF) - 1)
    number = _number(settings) if settings else number
    number, dash = divmod(number, len(DASHES) - 1)
    return PETROFF[colour], DASHES[1 + dash], SYMBOLS[number % len(SYMBOLS)]


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big")


def arm_order(arm: str) -> tuple[bool, int, str, bool, str]:
    """Sort key: undefended, then known methods, others by name, each before its control."""
    method, control = method_of(arm)
    known = [*METHODS, *VARIANTS]
    place = known.index(method) if method in known else len(known)
    return method != UNDEFENDED, place, method, control, arm


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of roles, type and strokes; sizes in px of a 96 px inch."""

    name: str
    ink: str
    muted: str
    grid: str
    ground: str
    """What the colours are read against."""
    background: str
    font: str
    label: float
    """Axis titles and legend (px)."""
    small: float
    """Tick labels and annotations (px)."""
    advance: float = 0.56
    """Mean width of a letter over the size of the type."""
    contrast: float = 1.8
    """Least contrast of series: on white Petroff's colours stay as they are."""
    faint: float = 0.5
    """Opacity of matched controls."""
    faint_contrast: float = 1.0
    """Least contrast of matched controls as they are seen, opacity and all."""
    stroke: float = 2.0
    """Width of the main line (px)."""
    marker: float = 7.0
    width: float | None = None
    """Page width (px); None where the page decides."""

    def series(self, arm: str) -> Series:
        """How an arm is drawn on this ground."""
        method, control = method_of(arm)
        colour, dash, symbol = base_style(method, arm.partition(" ")[2])
        colour = readable(colour, self.ground, self.contrast)
        edge = colour if contrast(colour, self.ground) >= 3 else self.muted
        if control:
            colour = readable(colour, self.ground, self.faint_contrast, self.faint)
            edge = readable(edge, self.ground, self.faint_contrast, self.faint)
            edge = rgba(edge, self.faint)
            return Series(colour, "dash", f"{symbol}-open", self.faint, edge)
        return Series(colour, dash, symbol, 1.0, edge)

    def outcome(self, verdict: str) -> str:
        """Colour of an attack's outcome."""
        return readable(OUTCOMES[verdict], self.ground, 4.5)

    def verdict(self, verdict: str) -> str | None:
        """Colour behind a verdict's words; None for what is neither good nor bad."""
        kind = VERDICTS.get(verdict)
        return None if kind is None else readable(OUTCOMES[kind], self.ground, 4.5)

    def mark(self, verdict: str) -> dict[str, Any]:
        """Marker of an attack's outcome: colour and shape, so that a grey print still reads."""
        colour = self.outcome(verdict)
        line = {"color": colour, "width": max(1.0, self.stroke * 0.75)}
        return {"symbol": MARKS[verdict], "color": colour, "size": self.marker * 1.2, "line": line}

    @cached_property
    def template(self) -> go.layout.Template:
        """What every figure of this theme has in common."""
        axis = {
            "gridcolor": self.grid,
            "linecolor": self.muted,
            "tickcolor": self.muted,
            "tickfont": {"size": self.small},
            "title": {"font": {"size": self.label}, "standoff": self.small * 0.6},
            "automargin": True,
            "zeroline": False,
            "showline": True,
            "ticks": "outside",
            "ticklen": 4,
        }
        return go.layout.Template(
            layout={
                "font": {"family": self.font, "size": self.label, "color": self.ink},
                "paper_bgcolor": self.background,
                "plot_bgcolor": self.background,
                "margin": {"l": 8, "r": 8, "t": 8, "b": 8, "autoexpand": True},
                "xaxis": axis,
                "yaxis": axis,
                "annotationdefaults": {"font": {"size": self.small}},
                "legend": {
                    "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
                    "font": {"size": self.label}, "bgcolor": "rgba(0,0,0,0)",
                },
                "colorscale": {"sequential": SEQUENTIAL, "diverging": [list(x) for x in DIVERGING]},
                "hoverlabel": {"font": {"family": self.font}},
                "hovermode": "closest",
            }
        )  # fmt: skip


_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
LIGHT = Theme(
    name="light", ink="#1f2328", muted="#59636e", grid="#e4e7eb", ground="#ffffff",
    background="rgba(0,0,0,0)", font=_SANS, label=13.0, small=12.0,
)  # fmt: skip
DARK = replace(
    LIGHT,
    name="dark",
    ink="#e6e6e6",
    muted="#a6a7ab",
    grid="#3b3d42",
    ground="#242424",
    contrast=3.0,
    faint=0.75,
    faint_contrast=3.0,
)
SCREEN: dict[Literal["light", "dark"], Theme] = {"light": LIGHT, "dark": DARK}
