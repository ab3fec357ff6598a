"""A panel: one figure as a card, with its question, its settings, its state and its downloads."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import MATCH, Dash, Input, Output, State, dcc, html, no_update

from app.reading import Reader
from app.session import Session
from app.state import View
from workbench.figures import (
    FIGURES,
    GRAPH_CONFIG,
    SCREEN,
    SCREEN_WIDTH,
    Figure,
    Frames,
    Missing,
    Params,
)

SHARED = {f.name for f in fields(View)}
"""Parameters that are chosen once for all pages."""
BLANK = go.Figure(layout={"xaxis": {"visible": False}, "yaxis": {"visible": False}})
LEAST_HEIGHT = 340
"""Of a figure on screen (px)."""
AROUND = 320
"""What stands above and below a single figure (px)."""
LABELS = {"x": "budget in", "log": "log axis", "mean_of": "mean of steps"}
"""Names of settings that say more than the parameter's own."""
NOTHING = {
    "mean_of": "auto", "epsilon": "largest", "prompt": "first", "parameters": "first",
    "reward": "first",
}  # fmt: skip
"""What a setting that was not given stands for, where it is not `all`."""


def card(figure: Figure, session: Session) -> Any:
    """The card of a figure, not yet drawn."""
    name = figure.name
    return dmc.Paper(
        [
            head(figure),
            dmc.Group(_settings(figure, session), gap="md", className="settings"),
            html.Div(id={"type": "note", "figure": name}),
            dmc.Skeleton(
                dcc.Graph(
                    id={"type": "graph", "figure": name}, config=GRAPH_CONFIG,
                    figure=BLANK,
                    style={"height": LEAST_HEIGHT}, className="graph",
                ),
                id={"type": "skeleton", "figure": name}, visible=True,
            ),
            html.P(id={"type": "caption", "figure": name}, className="provenance"),
            dcc.Store(id={"type": "drawn", "figure": name}),
        ],
        className="card", id={"type": "card", "figure": name},
    )  # fmt: skip


def head(figure: Figure) -> Any:
    """What stands over every figure: its question, `?` and `⋯`."""
    signs = dmc.Group([_help(figure), _menu(figure.name)], gap=2, wrap="nowrap")
    return dmc.Group(
        [html.H2(figure.title, className="question"), signs],
        justify="space-between", wrap="nowrap", align="flex-start",
    )  # fmt: skip


def register(app: Dash, reader: Reader) -> None:
    """Draw every card whenever what it shows changes, and only then."""
    parts = (("graph", "figure"), ("graph", "style"), ("note", "children"), ("skeleton", "visible"),
             ("caption", "children"), ("drawn", "data"))  # fmt: skip

    @app.callback(
        *(Output({"type": part, "figure": MATCH}, what) for part, what in parts),
        Input("view", "data"),
        State({"type": "drawn", "figure": MATCH}, "data"),
        State({"type": "drawn", "figure": MATCH}, "id"),
        State("window", "data"),
    )
    def draw(
        query: str | None, drawn: str | None, own: dict[str, str], window: int | None
    ) -> tuple[Any, ...]:
        if query is None:
            return (no_update,) * len(parts)
        session = Session.open(reader, query)
        figure = FIGURES[own["figure"]]
        frames = session.frames_of(figure)
        params, refused = session.params_and_refusals(figure, frames)
        runs = [(run.id, run.finished) for run in frames.runs]
        arms = session.arms_of(figure)
        key = json.dumps([asdict(params), refused, arms, session.view.theme, runs])
        if key == drawn:
            return (no_update,) * len(parts)
        table = figure.data(frames, params)
        note = [not_taken(refused), unread(session, frames)]
        if not len(table):
            note.append(lacking(figure.missing(frames, params)))
            return no_update, {"display": "none"}, note, False, "", key
        plotly = figure.draw_table(table, frames, params, SCREEN[session.view.theme])
        height = _height(figure, plotly.layout.meta["aspect"], window)
        plotly.update_layout(height=height, uirevision=figure.name)
        whose = "all arms of the store" if figure.whole else ", ".join(arms)
        caption = f"{figure.caption(table, params)} · {whose}"
        return plotly, {"height": height}, note, False, caption, key


def _height(figure: Figure, aspect: float, window: int | None) -> int:
    """Height on screen: as laid out, and a single figure fills what the window leaves (px)."""
    natural = max(LEAST_HEIGHT, SCREEN_WIDTH * aspect)
    alone = sum(other.page == figure.page for other in FIGURES.values()) == 1
    room = (window or 0) - AROUND if alone else 0
    return round(max(natural, min(room, 1.6 * natural)))


def lacking(missing: Missing | None) -> Any:
    """What to show in place of a figure that has no rows."""
    if missing is None:
        return None
    writes = [
        dmc.Text("This command writes them:", size="sm", mt=4),
        dmc.Code(missing.command, block=True, mt=4),
    ]
    return dmc.Alert(
        [dmc.Text(missing.what, size="sm"), *(writes if missing.command else ())],
        title="Nothing to draw yet" if missing.command else "Nothing to draw",
        color="gray", variant="light", className="lacking",
    )  # fmt: skip


def not_taken(refused: Sequence[str]) -> Any:
    """What was asked of a panel in vain, and what it shows instead."""
    if not refused:
        return None
    return dmc.Alert(
        [dmc.Text(why, size="sm") for why in refused],
        color="yellow", variant="light", className="refused",
    )  # fmt: skip


def unread(session: Session, frames: Frames) -> Any:
    """The finished runs whose rows cannot be read, and why."""
    reasons = {k: v for k, v in frames.left_out.items() if k not in session.listing.left_out}
    if not reasons:
        return None
    items = [html.Li([html.Code(run), f": {why}"]) for run, why in reasons.items()]
    runs = "1 run has" if len(items) == 1 else f"{len(items)} runs have"
    summary = html.Summary(f"{runs} rows that cannot be read; the others are shown")
    return html.Details([summary, html.Ul(items)], className="run-notice unread")


def redraws(figure: Figure, session: Session, params: Params) -> str:
    """Python that draws the same figure."""
    runs = [run.id for run in session.listing.of(session.arms_of(figure))]
    plain = type(params)()
    given = {k: v for k, v in asdict(params).items() if v != getattr(plain, k)}
    more = "".join(f", {name}={value!r}" for name, value in given.items())
    return (
        "from workbench.figures import run_figure\n"
        "from workbench.store import Store\n\n"
        f"runs = {runs!r}\n"
        f"store = Store({str(session.reader.store.root)!r})\n"
        f'run_figure("{figure.name}", store, runs{more}).show()\n'
    )


def _help(figure: Figure) -> Any:
    paragraphs = [dmc.Text(part.replace("\n", " "), size="sm", mb="xs")
                  for part in figure.help.split("\n\n")]  # fmt: skip
    sign = dmc.ActionIcon(
        "?", variant="subtle", color="gray", id={"type": "help", "figure": figure.name},
        **{"aria-label": f"What “{figure.title}” measures and what it does not show"},
    )  # fmt: skip
    return dmc.Popover(
        [dmc.PopoverTarget(sign), dmc.PopoverDropdown(paragraphs)],
        width=460, position="bottom-end", withArrow=True, shadow="md",
    )  # fmt: skip


def _menu(name: str) -> Any:
    own = {"type": "menu", "figure": name}
    sign = dmc.ActionIcon(
        "⋯", variant="subtle", color="gray", id=own, **{"aria-label": "Download or copy"}
    )
    items = [
        dmc.MenuItem("Download…", id={"type": "download-open", "figure": name}, n_clicks=0),
        dmc.MenuItem("Copy as Python", id={"type": "copy", "figure": name}, n_clicks=0),
    ]
    return dmc.Menu([dmc.MenuTarget(sign), dmc.MenuDropdown(items)], position="bottom-end")


def _settings(figure: Figure, session: Session) -> list[Any]:
    """A control for each parameter that is the figure's own."""
    frames = session.frames_of(figure)
    options, hints = figure.options(frames), get_type_hints(figure.params)
    params = asdict(session.params(figure, frames))
    return [
        control
        for f in fields(figure.params)
        if f.name not in SHARED
        and (control := _setting(figure.name, f.name, hints[f.name], params[f.name], options))
    ]


def _setting(owner: str, name: str, kind: Any, value: Any, options: dict[str, list[Any]]) -> Any:
    own = {"type": "param", "figure": owner, "param": name}
    label = LABELS.get(name, name.replace("_", " "))
    if kind is bool:
        data = [{"value": "false", "label": "off"}, {"value": "true", "label": "on"}]
        return _named(label, dmc.SegmentedControl(id=own, data=data, value=_text(value), size="xs"))
    look = {"id": own, "size": "xs", "aria-label": label}
    choices = options.get(name) or list(get_args(kind) if get_origin(kind) is Literal else ())
    if choices:
        known = choices if value in choices else [value, *choices]
        data = [{"value": _text(c), "label": _label(name, c)} for c in known]
        return _named(
            label, dmc.Select(data=data, value=_text(value), w=132, allowDeselect=False, **look)
        )
    if int in (kind, *get_args(kind)):
        shown = "" if value is None else value
        number = dmc.NumberInput(
            value=shown,
            w=84,
            min=1,  # every number of a panel is a count; others are choices
            allowDecimal=False,
            allowNegative=False,
            debounce=True,
            placeholder=NOTHING.get(name, "all"),
            **look,
        )
        return _named(label, number)
    return None


def _label(name: str, choice: object) -> str:
    return NOTHING.get(name, "all") if choice is None else str(choice).replace("_", " ")


def _named(label: str, control: Any) -> Any:
    return html.Div([html.Span(label, className="label"), control], className="labelled")


def defaults(figure: Figure) -> dict[str, str]:
    """What a figure's own settings are when an address says nothing, as text."""
    plain = {f.name: f.default for f in fields(figure.params) if f.default is not MISSING}
    return {
        f"{figure.name}.{name}": _text(value) for name, value in plain.items() if name not in SHARED
    }


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
