"""What every figure is: one question, the rows it needs, its parameters, a table and a drawing.

The same figure serves dashboard, notebook and paper. `data` makes the tidy table from stored rows,
`plot` draws that table and nothing else, so the exported data is what the picture shows. Figures
name roles (an arm, an outcome, the ink); the theme gives colours, type and sizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import catalogue
from workbench.errors import InvalidValueError
from workbench.figures._frames import Frames
from workbench.figures._params import Params, make_params
from workbench.figures._style import LIGHT, Theme
from workbench.figures._text import MISSING, escape
from workbench.rows import Row

ASPECT = 0.62
"""Height over width, where a figure does not ask for another."""
MOST_LISTED = 12
"""Values that are named of what could have been chosen."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Why a figure cannot be drawn, and what writes what it lacks."""

    what: str
    command: str | None
    """None where no kind of row is absent: another choice helps, another study need not."""

    def __str__(self) -> str:
        return " ".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """What is said, part by part."""
        return (self.what, *([f"Written by: {self.command}"] if self.command else ()))


def _no_options(frames: Frames) -> dict[str, list[Any]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the registry."""

    name: str
    title: str
    """The question it answers."""
    page: str
    """Page of the dashboard: overview, resistance, frontier, tokens, drift, training."""
    needs: tuple[type[Row], ...]
    """Kinds of row it is made from."""
    params: type[Params]
    """Frozen dataclass of its parameters: every one has a default, a doc and a plain type."""
    data: Callable[[Frames, Any], pd.DataFrame]
    """The tidy table behind it; without rows when nothing is there to draw."""
    plot: Callable[[pd.DataFrame, Any, Theme], go.Figure]
    """Draw that table."""
    caption: Callable[[pd.DataFrame, Any], str]
    """One line: prompts, seeds, split, step, thresholds."""
    help: str
    """Formula, source, and what the figure does not show."""
    whole: bool = False
    """Whether it is about all arms of a store: the dashboard draws more than those on show."""
    options: Callable[[Frames], dict[str, list[Any]]] = field(default=_no_options)
    """Parameter to the values these runs have, for parameters that name something stored."""

    def missing(
        self, frames: Frames, params: Params | Mapping[str, Any] | None = None
    ) -> Missing | None:
        """Why there is nothing to draw; None when there is something."""
        table = self.data(frames, self.given(params))
        return None if len(table) else self._lacks(frames, self.given(params))

    def draw(
        self,
        frames: Frames,
        params: Params | Mapping[str, Any] | None = None,
        theme: Theme = LIGHT,
    ) -> go.Figure:
        """Draw from stored rows; without rows, a figure that says what is missing."""
        chosen = self.given(params)
        return self.draw_table(self.data(frames, chosen), frames, chosen, theme)

    def draw_table(
        self, table: pd.DataFrame, frames: Frames, params: Params, theme: Theme = LIGHT
    ) -> go.Figure:
        """Draw a table that `data` made from these frames."""
        if len(table):
            figure, caption = self.plot(table, params, theme), self.caption(table, params)
        else:
            figure, caption = empty(self._lacks(frames, params), theme), ""
        figure.update_layout(template=theme.template)
        figure.layout.meta = {
            "aspect": ASPECT,
            **(figure.layout.meta or {}),
            "figure": self.name,
            "title": self.title,
            "params": asdict(params),
            "runs": [run.id for run in frames.runs],
            "left_out": sorted(frames.left_out),
            "caption": caption,
        }
        return figure

    def given(self, params: Params | Mapping[str, Any] | None) -> Any:
        """Parameters as this figure takes them.

        Raises:
            InvalidValueError: a value out of range, or parameters of another figure.
            UnknownNameError: no such parameter.
        """
        if params is None or isinstance(params, Mapping):
            return make_params(self.params, params or {}, f"parameter of {self.name}")
        if not isinstance(params, self.params):
            raise InvalidValueError(
                f"{self.name} takes {self.params.__name__}, not {type(params).__name__}."
            )
        return params

    def _lacks(self, frames: Frames, params: Params) -> Missing:
        absent = [kind.kind for kind in self.needs if not len(frames[kind])]
        options = self.options(frames)
        unknown = [
            f"{name} {getattr(params, name)!r} (there is: {_listed(known)})"
            for name, known in options.items()
            if getattr(params, name) not in (None, *known)
        ]
        if not frames.runs and frames.left_out:
            why = "; ".join(f"{run}: {why}" for run, why in frames.left_out.items())
            what = f"None of the chosen runs can be shown ({why:.400})."
        elif not frames.runs:
            what = "No runs are chosen, or there are none."
        elif absent:
            what = f"The chosen runs have no rows of: {', '.join(absent)}."
        elif unknown:
            what = f"The chosen runs have no {'; no '.join(unknown)}."
        else:
            there = "; ".join(f"{name} {_listed(known)}" for name, known in options.items())
            what = "No rows of the chosen runs fit these parameters together."
            what += f" There is: {there}." if there else ""
        return Missing(what=what, command=_command(frames, absent) if absent else None)


def _listed(known: list[Any]) -> str:
    """Values to choose from, as many as can be read."""
    named = [str(value) for value in known if value is not None]
    more = f" and {len(named) - MOST_LISTED} more" if len(named) > MOST_LISTED else ""
    return (", ".join(named[:MOST_LISTED]) or MISSING) + more


def _command(frames: Frames, absent: list[str]) -> str:
    """What writes the kinds of row that are absent."""
    command = f"workbench study --store {frames.source}"
    probes = [p["name"] for p in catalogue.load()["probes"] if set(p["rows"]) & set(absent)]
    unusual = [name for name in probes if name not in catalogue.USUAL_PROBES]
    if frames.runs and unusual:
        command += f" --probes {' '.join([*catalogue.USUAL_PROBES, *unusual])}"
    return command


def empty(missing: Missing, theme: Theme) -> go.Figure:
    """A figure that says what is missing and, where one does, which command writes it."""
    figure = go.Figure()
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    first, *rest = missing.lines
    text = "<br>".join(map(escape, [*wrap(first, 64), *rest]))
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    figure.update_layout(template=theme.template, meta={"aspect": ASPECT, "empty": True})
    return figure
