"""What a page shows, as one value that is the address: `View` to query string and back.

Everything that a reader can choose is in the URL, so a link shows the same page to somebody else.
A value that cannot be used falls back to its default, with a notice that says so.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from workbench.pillars import Thresholds

Theme = Literal["light", "dark"]
MOST_COMPARED = 7
"""Arms beside the baseline: the palette has eight colours that are told apart safely."""
LONGEST = 200
"""Characters of a name that are looked at."""
OPTION = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything a reader can choose. None: whatever the store suggests."""

    baseline: str | None = None
    """The arm all others are shown beside."""
    compare: tuple[str, ...] | None = None
    """The arms shown beside it."""
    attack: str | None = None
    phi: float = Thresholds.phi
    stability_margin: float = Thresholds.stability_margin
    utility_floor: float = Thresholds.utility_floor
    step: int | None = None
    """Attack step of the cursor; None: the last one."""
    prompt: str | None = None
    theme: Theme = "light"
    options: tuple[tuple[str, str], ...] = ()
    """What was set on a single panel: `figure.parameter` and its value as text."""

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds as the pillars take them."""
        return Thresholds(
            phi=self.phi, stability_margin=self.stability_margin, utility_floor=self.utility_floor
        )


def to_query(view: View) -> str:
    """The query string of a view, without what is as it comes by default."""
    pairs: list[tuple[str, str]] = []
    for field in fields(View):
        value = getattr(view, field.name)
        if field.name != "options" and value != field.default:
            values = value or ("",) if isinstance(value, tuple) else (value,)
            pairs += [(field.name, str(item)) for item in values]
    pairs += view.options
    return "?" + urlencode(pairs) if pairs else ""


def from_query(query: str) -> tuple[View, list[str]]:
    """The view that a query string asks for, and what in it could not be used."""
    view, notices = View(), []
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.removeprefix("?"), keep_blank_values=True):
        given.setdefault(name, []).append(value[:LONGEST])
    for name, values in given.items():
        if name not in READ:
            continue  # not ours, like the token; or a panel's, see below
        try:
            view = replace(view, **{name: READ[name](values)})
        except ValueError as error:
            notices.append(f"The address asks for {name} = {values[-1]!r:.60}; {error}.")
    panels = {name: values[-1] for name, values in given.items() if OPTION.fullmatch(name)}
    return replace(view, options=tuple(sorted(panels.items()))), notices


def chosen(view: View, arms: Sequence[str], attacks: Sequence[str]) -> tuple[View, list[str]]:
    """The view with a baseline, compared arms and an attack that the store really has.

    Args:
        view: what was asked for.
        arms: the store's arms, the one to start from first.
        attacks: the store's attacks, the usual one first.
    """
    notices: list[str] = []

    def known(kind: str, name: str | None, names: Sequence[str]) -> bool:
        if name is None or name in names:
            return name is not None
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        notices.append(f"This store has no {kind} called {name!r:.60}.{hint}")
        return False

    first = view.baseline if known("arm", view.baseline, arms) else next(iter(arms), None)
    asked = arms if view.compare is None else view.compare
    others = [arm for arm in dict.fromkeys(asked) if arm != first and known("arm", arm, arms)]
    if len(others) > MOST_COMPARED:
        notices.append(
            f"{len(others)} arms do not fit beside the baseline; the first {MOST_COMPARED} are "
            "shown. Choose others in the run table."
        )
    attack = view.attack if known("attack", view.attack, attacks) else next(iter(attacks), None)
    shown = tuple(others[:MOST_COMPARED])
    return replace(view, baseline=first, compare=shown, attack=attack), notices


def _share(least: float) -> Callable[[list[str]], float]:
    def read(values: list[str]) -> float:
        try:
            value = float(values[-1])
        except ValueError:
            value = math.nan
        if not least <= value <= 1:
            raise ValueError(f"it must be a number between {least:g} and 1")
        return value

    return read


def _count(values: list[str]) -> int:
    text = values[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("it must be a whole number, 0 or more")
    return int(text)


def _theme(values: list[str]) -> str:
    if values[-1] not in get_args(Theme):
        raise ValueError(f"it must be one of {', '.join(get_args(Theme))}")
    return values[-1]


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _name(values: list[str]) -> str | None:
    return values[-1] or None


SMALLEST_MARGIN = 0.001
READ: dict[str, Callable[[list[str]], Any]] = {
    "baseline": _name,
    "compare": _names,
    "attack": _name,
    "phi": _share(0),
    "stability_margin": _share(SMALLEST_MARGIN),
    "utility_floor": _share(0),
    "step": _count,
    "prompt": _name,
    "theme": _theme,
}
