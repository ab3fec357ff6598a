"""What every callback starts from: the address, read against what the store holds now."""

from collections.abc import Mapping, Sequence
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
        """A figure's parameters: those all pages share, then those set on its panel."""
        return self.params_and_refusals(figure, frames)[0]

    def params_and_refusals(self, figure: Figure, frames: Frames) -> tuple[Params, tuple[str, ...]]:
        """A figure's parameters, and what was asked of it in vain.

        A step that these runs were not measured at becomes the last one before it, a prompt that
        this figure's rows do not have the first that they have.
        """
        given: dict[str, Any] = shared(self.view, figure)
        options, refused = figure.options(frames), []
        steps, prompts = options.get("step"), options.get("prompt")
        if "step" in given and steps and given["step"] not in steps:
            given["step"] = max([s for s in steps if s <= given["step"]], default=min(steps))
        if "prompt" in given and prompts and given["prompt"] not in prompts:
            refused.append(
                f"The chosen prompt {given['prompt']!r} is not among the {len(prompts)} whose rows "
                f"this figure has; shown is the first of them, {prompts[0]!r}."
            )
            given["prompt"] = prompts[0]
        own, wrong = _taken(figure, panel_options(self.view, figure))
        return figure.given(given | own), (*refused, *wrong)


def shared(view: View, figure: Figure) -> dict[str, Any]:
    """What the view has of a figure's parameters, where it says anything."""
    names = {f.name for f in fields(figure.params)} & {f.name for f in fields(View)}
    return {name: value for name in names if (value := getattr(view, name)) is not None}


def panel_options(view: View, figure: Figure) -> dict[str, str]:
    """What was set on a figure's own panel."""
    pairs = ([*name.split("."), value] for name, value in view.options)
    return {param: value for owner, param, value in pairs if owner == figure.name}


def _taken(figure: Figure, options: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The settings of a panel that its figure can take, and why it cannot take the others."""
    taken: dict[str, str] = {}
    refused = []
    for name, value in options.items():
        try:
            figure.given({**taken, name: value})
        except WorkbenchError as error:
            refused.append(f"The address sets {figure.name} in a way it cannot be: {error}")
        else:
            taken[name] = value
    return taken, refused


def _refused(view: View) -> list[str]:
    """Panel settings that their figure cannot take."""
    owners = dict.fromkeys(name.split(".")[0] for name, _ in view.options)
    figures = [FIGURES[owner] for owner in owners if owner in FIGURES]
    return [why for f in figures for why in _taken(f, panel_options(view, f))[1]]
