"""Page sizes and type of venues, so that a figure enters LaTeX at its own size.

Widths from the venues' style files; type after tueplots 0.2 (NeurIPS, ICML, ICLR 2024) and, for
ACL, after acl.sty. One inch is 96 px, one point 96/72 px.
"""

from dataclasses import dataclass
from typing import Literal

from workbench.errors import UnknownNameError
from workbench.figures._style import Theme

INCH, POINT = 96.0, 96.0 / 72.0
Width = Literal["column", "full"]
SERIF = "Liberation Serif, Times New Roman, Times, serif"
"""Metrics of Times; TrueType, so that PDFs hold no Type 3 font."""


@dataclass(frozen=True)
class Venue:
    """Widths in inches and type in points."""

    column: float
    full: float
    label: float
    small: float


VENUES = {
    "neurips": Venue(5.5, 5.5, 9.0, 7.0),
    "iclr": Venue(5.5, 5.5, 9.0, 7.0),
    "icml": Venue(3.25, 6.75, 8.0, 6.0),
    "acl": Venue(3.03, 6.30, 9.0, 7.0),
}
"""NeurIPS and ICLR set one column: both widths are the same."""


def paper(venue: str, width: str = "column") -> Theme:
    """The theme of a venue's paper.

    Raises:
        UnknownNameError: a venue or width that is not known.
    """
    if venue not in VENUES:
        raise UnknownNameError("venue", venue, VENUES)
    if width not in ("column", "full"):
        raise UnknownNameError("width", width, ("column", "full"))
    size = VENUES[venue]
    return Theme(
        name=f"{venue}-{width}", ink="#000000", muted="#4d4d4d", grid="#e6e6e6",
        ground="#ffffff", background="#ffffff", font=SERIF, label=size.label * POINT,
        small=size.small * POINT, stroke=1.5, marker=4.5, advance=0.44,
        width=getattr(size, width) * INCH,
    )  # fmt: skip
