"""From the address's path to a page, and to the controls that the page uses."""

from typing import Any

import dash_mantine_components as dmc
from dash import ALL, Dash, Input, Output, State, dcc, html, no_update

from app.pages import PAGES, Page
from app.reading import Reader
from app.session import Session
from app.staleness import other_code


def register(app: Dash, reader: Reader) -> None:
    """Show the page of the path, for the arms that are chosen."""

    @app.callback(
        Output("page", "children"),
        Output({"type": "control", "of": ALL}, "style"),
        Output("step", "max"),
        Output("step", "marks"),
        Output("step", "value"),
        Input("url", "pathname"),
        Input("chosen", "data"),
        State("view", "data"),
        State({"type": "control", "of": ALL}, "id"),
    )
    def show(
        path: str | None,
        chosen: list[Any] | None,
        query: str | None,
        controls: list[dict[str, str]],
    ) -> tuple[Any, ...]:
        if chosen is None:
            return no_update, [no_update] * len(controls), no_update, no_update, no_update
        session = Session.open(reader, query)
        page = PAGES.get(path or "/")
        if page is None or not session.listing.shown:
            content = _unknown(path) if page is None else _empty(session)
            hidden = [{"display": "none"}] * len(controls)
            return content, hidden, no_update, no_update, no_update
        steps = _steps(page, session)
        used = page.parameters if steps else page.parameters - {"step"}
        styles = [{} if own["of"] in used else {"display": "none"} for own in controls]
        if not steps:
            return page.content(session), styles, no_update, no_update, no_update
        step = steps[-1] if session.view.step is None else session.view.step
        marks = [{"value": step} for step in steps]
        return page.content(session), styles, steps[-1], marks, min(step, steps[-1])

    @app.callback(
        Output("left-out", "children"),
        Output("stale", "children"),
        Input("chosen", "data"),
        State("view", "data"),
    )
    def about_runs(chosen: list[Any] | None, query: str | None) -> Any:
        if chosen is None:
            return no_update, no_update
        session = Session.open(reader, query)
        return left_out(session), stale(session)


def left_out(session: Session) -> Any:
    """The runs of the arms on show that no figure shows, and why; folded away behind one line."""
    unshown = session.listing.unshown(session.arms)
    items = [html.Li([html.Code(run), f": {why}"]) for run, why in unshown.items()]
    return _folded(f"{len(items)} run{_s(items)} of these arms {_is(items)} not shown", items)


def stale(session: Session) -> Any:
    """The runs on show that other code made than is installed."""
    runs = [(run, other_code(run)) for run in session.listing.of(session.arms)]
    items = [
        html.Li([html.Code(run.id), f": made by code {codes[0]}; installed is {codes[1]}"])
        for run, codes in runs
        if codes is not None
    ]
    what = f"◷ {len(items)} of {len(runs)} runs on show {_was(items)} made by other code"
    return _folded(f"{what} than is installed", items)


def _folded(summary: str, items: list[Any]) -> Any:
    if not items:
        return None
    return html.Details([html.Summary(summary), html.Ul(items)], className="run-notice")


def _s(items: list[Any]) -> str:
    return "" if len(items) == 1 else "s"


def _is(items: list[Any]) -> str:
    return "is" if len(items) == 1 else "are"


def _was(items: list[Any]) -> str:
    return "was" if len(items) == 1 else "were"


def _steps(page: Page, session: Session) -> list[int]:
    """The attack steps that the page's figures can be moved to."""
    steps: set[int] = set()
    for figure in page.figures:
        if "step" in figure.params.__dataclass_fields__:
            steps |= set(figure.options(session.frames_of(figure)).get("step", ()))
    return sorted(steps)


def _unknown(path: str | None) -> list[Any]:
    links = [html.Li(dcc.Link(page.label, href=page.path)) for page in PAGES.values()]
    return [
        html.H1("There is no such page", className="page-question"),
        html.P(f"Nothing is at {(path or '/')[:80]!r}. There is:"),
        html.Ul(links),
    ]


def _empty(session: Session) -> list[Any]:
    """What to do when no run of the store can be shown."""
    root, runs = session.reader.store.root, session.listing.runs
    what = (
        f"{len(runs)} run{_s(list(runs))} in {root}, none of them finished and readable. “Runs” in "
        "the top bar says why for each."
        if runs
        else f"{root} holds no runs yet."
    )
    return [
        html.H1("No finished runs to show", className="page-question"),
        dmc.Alert(
            [
                dmc.Text(what, size="sm"),
                dmc.Text("This command writes some, on the embedded lab model:", size="sm", mt=8),
                dmc.Code(f"workbench demo --store {root}", block=True, mt=4),
                dmc.Text("To look at shipped ones first:", size="sm", mt=8),
                dmc.Code("python -m app", block=True, mt=4),
            ],
            color="gray", variant="light", id="empty",
        ),
    ]  # fmt: skip
