"""What every callback starts from: the address, read against what the store holds now."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from app.reading import Listing, Reader
from app.state import View, chosen, from_query
from workbench.errors import WorkbenchError
from workbench.figures import FIGURES, Figure, Frames, Params
from workbench.rows import Row


@dataclass(frozen=True)
class Session:
    """One look at the store through one address."""

    reader: Reader
    listing: Listing
    view: View
    notices: tuple[str, ...]

    @classmethod
    def open(cls, reader: Reader, query: str | None) -> "Session":
        """What an address shows now; what it asks for in vain is in the notices."""
        asked, first = from_query(query or "")
        listing = reader.listing()
        view, second = chosen(asked, listing.arms, listing.attacks)
        return cls(reader, listing, view, (*first, *second, *_refused(view)))

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms on show, the baseline first."""
        first = () if self.view.baseline is None else (self.view.baseline,)
        return (*first, *(self.view.compare or ()))

    def frames(self, needs: Sequence[type[Row]]) -> Frames:
        """The rows of the arms on show."""
        return self.reader.frames(self.listing, self.arms, needs)

    def arms_of(self, figure: Figure) -> tuple[str, ...]:
        """The arms that a figure is drawn from: those on show, or all there are."""
        return tuple(self.listing.arms) if figure.whole else self.arms

    def frames_of(self, figure: Figure) -> Frames:
        """The rows that a figure is drawn from."""
        return self.reader.frames(self.listing, self.arms_of(figure), figure.needs)

    def params(self, figure: Figure, frames: Frames) -> Params:
        """A figure's parameters: those all pages share, then those set on its panel.

        A step that these runs were not measured at becomes the last one before it.
        """
        given: dict[str, Any] = shared(self.view, figure)
        steps = figure.options(frames).get("step", [])
        if "step" in given and steps and given["step"] not in steps:
            given["step"] = max([s for s in steps if s <= given["step"]], default=min(steps))
        try:
            return figure.given(given | panel_options(self.view, figure))
        except WorkbenchError:  # the notices say it
            return figure.given(given)


def shared(view: View, figure: Figure) -> dict[str, Any]:
    """What the view has of a figure's parameters, where it says anything."""
    names = {f.name for f in fields(figure.params)} & {f.name for f in fields(View)}
    return {name: value for name in names if (value := getattr(view, name)) is not None}


def panel_options(view: View, figure: Figure) -> dict[str, str]:
    """What was set on a figure's own panel."""
    pairs = ([*name.split("."), value] for name, value in view.options)
    return {param: value for owner, param, value in pairs if owner == figure.name}


def _refused(view: View) -> list[str]:
    """Panel settings that their figure cannot take."""
    notices = []
    for owner in dict.fromkeys(name.split(".")[0] for name, _ in view.options):
        try:
            if owner in FIGURES:
                FIGURES[owner].given(panel_options(view, FIGURES[owner]))
        except WorkbenchError as error:
            notices.append(f"The address sets {owner} in a way it cannot be: {error}")
    return notices
