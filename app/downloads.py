"""Downloads: a panel's figure as PDF, SVG or PNG at a venue's size, or the table behind it."""

from typing import Any, Literal, get_args

import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, no_update

from app.panels import redraws
from app.reading import Reader
from app.session import Session
from workbench.errors import RunError, WorkbenchError
from workbench.figures import FIGURES, Figure
from workbench.figures.browser import Browser, Format
from workbench.figures.export import FORMATS as PICTURES
from workbench.figures.export import origin, picture
from workbench.figures.venues import VENUES, Width, paper

IDLE_SECONDS = 120.0
"""After so long without a picture the browser that draws them is stopped."""
NAMES = {"neurips": "NeurIPS", "iclr": "ICLR", "icml": "ICML", "acl": "ACL"}
File = Format | Literal["csv"]
FORMATS: tuple[File, ...] = (*PICTURES, "csv")


def modal() -> Any:
    """What to download, asked once for all panels."""
    venues = [{"value": name, "label": NAMES.get(name, name)} for name in VENUES]
    return dmc.Modal(
        [
            dmc.Stack(
                [
                    dmc.SegmentedControl(id="download-format", value="pdf", fullWidth=True,
                                         data=[{"value": f, "label": f.upper()} for f in FORMATS]),
                    dmc.Group(
                        [
                            dmc.Select(id="download-venue", label="Size and type of", data=venues,
                                       value="neurips", allowDeselect=False, w=160),
                            dmc.SegmentedControl(id="download-width", value="full", mt=24,
                                                 data=list(get_args(Width))),
                        ],
                    ),
                    dmc.Text(
                        "Vector, fonts embedded, what it was made from inside the file. CSV is the "
                        "table that the figure draws.", size="xs", c="dimmed"),
                    dmc.Button("Download", id="download-go"),
                    dmc.Alert(id="download-error", color="red", variant="light",
                              style={"display": "none"}),
                ],
            ),
            dcc.Store(id="download-what"),
            dcc.Store(id="copy-what"),
        ],
        id="download-modal", title="Download", size="md",
    )  # fmt: skip


def register(app: Dash, reader: Reader) -> None:
    """Draw the figure of the address anew at the size asked for, and hand it over."""
    browser = Browser(idle=IDLE_SECONDS)

    for menu, store in (("download-open", "download-what"), ("copy", "copy-what")):
        app.clientside_callback(
            ClientsideFunction("workbench", "clicked"),
            Output(store, "data"),
            Input({"type": menu, "figure": ALL}, "n_clicks"),
            prevent_initial_call=True,
        )

    @app.callback(
        Output("download-modal", "opened"),
        Output("download-modal", "title"),
        Input("download-what", "data"),
        prevent_initial_call=True,
    )
    def ask(what: dict[str, Any] | None) -> tuple[Any, ...]:
        return (no_update, no_update) if what is None else (True, FIGURES[what["figure"]].title)

    @app.callback(
        Output("download", "data"),
        Output("download-error", "children"),
        Output("download-error", "style"),
        Input("download-go", "n_clicks"),
        State("download-what", "data"),
        State("download-format", "value"),
        State("download-venue", "value"),
        State("download-width", "value"),
        State("view", "data"),
        running=[(Output("download-go", "loading"), True, False)],
        prevent_initial_call=True,
    )
    def download(
        _clicks: int, what: dict[str, Any], form: File, venue: str, width: Width, query: str | None
    ) -> tuple[Any, ...]:
        name = what["figure"]
        if name not in FIGURES or form not in FORMATS:
            return no_update, no_update, no_update
        session = Session.open(reader, query)
        try:
            content = made(FIGURES[name], session, form, venue, width, browser)
        except WorkbenchError as error:
            return no_update, str(error), {}
        return dcc.send_bytes(content, f"{name}.{form}"), "", {"display": "none"}

    @app.callback(
        Output("clipboard", "data"),
        Input("copy-what", "data"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def code(what: dict[str, Any] | None, query: str | None) -> Any:
        if what is None:
            return no_update
        figure, session = FIGURES[what["figure"]], Session.open(reader, query)
        return {"text": redraws(figure, session, session.params(figure, session.frames_of(figure)))}

    app.clientside_callback(
        ClientsideFunction("workbench", "copyText"),
        Output("notifications", "sendNotifications"),
        Input("clipboard", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "copyLink"),
        Output("notifications", "sendNotifications", allow_duplicate=True),
        Input("copy-link", "n_clicks"),
        prevent_initial_call=True,
    )


def made(
    figure: Figure, session: Session, form: File, venue: str, width: Width, browser: Browser
) -> bytes:
    """The file.

    Raises:
        WorkbenchError: nothing to draw, no such venue, or no browser to draw with.
    """
    frames = session.frames_of(figure)
    params = session.params(figure, frames)
    table = figure.data(frames, params)
    if form == "csv":
        return table.to_csv(index=False).encode()
    if not len(table):
        raise RunError(f"There is nothing to draw. {figure.missing(frames, params)}")
    theme = paper(venue, width)
    drawn = figure.draw_table(table, frames, params, theme)
    return picture(drawn, form, origin(figure, frames, params, theme), browser)
