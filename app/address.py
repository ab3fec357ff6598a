"""The address and the controls follow each other: the URL is the state of the app."""

from dataclasses import fields
from typing import Any
from urllib.parse import urlsplit

import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from app.pages import FIGURE_DEFAULTS
from app.reading import Reader
from app.session import Session
from app.state import View, from_query, to_query

CONTROLS = ("baseline", "compare", "attack", "phi", "stability_margin", "utility_floor", "step")
STORES = ("prompt", "theme")


def register(app: Dash, reader: Reader) -> None:
    """Wire address, controls, links and theme."""
    _read(app, reader)
    inputs = [Input(name, "value") for name in CONTROLS] + [Input(name, "data") for name in STORES]
    app.clientside_callback(
        ClientsideFunction("workbench", "address"),
        Output("view", "data"),
        *inputs,
        Input({"type": "param", "figure": ALL, "param": ALL}, "value"),
        State("step", "max"),
        State("view", "data"),
        State("standard", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "chosen"),
        Output("chosen", "data"),
        Input("view", "data"),
        State("baseline", "value"),
        State("compare", "value"),
        State("attack", "value"),
        State("chosen", "data"),
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "others"),
        Output("compare", "data"),
        Output("compare", "value", allow_duplicate=True),
        Input("baseline", "value"),
        State("compare", "value"),
        State("baseline", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "links"),
        Output({"type": "nav", "page": ALL}, "href"),
        Output({"type": "nav", "page": ALL}, "active"),
        Input("view", "data"),
        Input("url", "pathname"),
        State({"type": "nav", "page": ALL}, "id"),
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "values"),
        Output({"type": "value", "of": ALL}, "children"),
        *(Input(name, "value") for name in CONTROLS[3:]),
        State({"type": "value", "of": ALL}, "id"),
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "size"), Output("window", "data"), Input("url", "pathname")
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "open"),
        Output("about", "opened"),
        Input("about-open", "n_clicks"),
        prevent_initial_call=True,
    )
    _theme(app)
    _navigation(app)


def _read(app: Dash, reader: Reader) -> None:
    """The address, when it was opened or walked to, sets every control."""
    # The page and the run table set these too.
    values = [Output(name, "value", allow_duplicate=True) for name in CONTROLS]
    stores = [Output(name, "data", allow_duplicate=True) for name in STORES]

    @app.callback(
        *values,
        *stores,
        Output("standard", "data"),
        Output("notices", "children"),
        Input("url", "href"),
        State("view", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def read(href: str | None, shown: str | None) -> tuple[Any, ...]:
        query = urlsplit(href or "").query
        session = Session.open(reader, query)
        view = session.view
        if shown is not None and not _differs(query, shown):
            return (no_update,) * len(ctx.outputs_list)
        return (
            view.baseline,
            list(view.compare or ()),
            *(getattr(view, name) for name in CONTROLS[2:]),
            *(getattr(view, name) for name in STORES),
            _standard(reader),
            [dmc.Alert(text, color="yellow", variant="light", mb="xs", withCloseButton=True)
             for text in session.notices],
        )  # fmt: skip


def _differs(query: str, shown: str) -> bool:
    """Whether an address asks for something else than what is shown."""
    return to_query(from_query(query)[0]) != to_query(from_query(shown)[0])


def _standard(reader: Reader) -> dict[str, Any]:
    """What every control has in an address that says nothing."""
    view = Session.open(reader, "").view
    held = {f.name: getattr(view, f.name) for f in fields(View) if f.name != "options"}
    return held | {"compare": list(view.compare or ())} | FIGURE_DEFAULTS


def _navigation(app: Dash) -> None:
    """In a narrow window the burger shows the pages, and going to one hides them."""
    app.clientside_callback(
        ClientsideFunction("workbench", "navbar"),
        Output("shell", "navbar"),
        Input("burger", "opened"),
        State("shell", "navbar"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "close"),
        Output("burger", "opened"),
        Input("url", "pathname"),
        prevent_initial_call=True,
    )


def _theme(app: Dash) -> None:
    app.clientside_callback(
        ClientsideFunction("workbench", "toggle"),
        Output("theme", "data", allow_duplicate=True),
        Input("theme-toggle", "n_clicks"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "scheme"),
        Output("mantine", "forceColorScheme"),
        Output("theme-toggle", "children"),
        Input("theme", "data"),
    )
