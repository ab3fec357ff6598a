"""The run table: every folder of the store from its header alone, and the arms to show."""

from datetime import UTC, datetime
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, html, no_update

from app.reading import Listing, Reader
from app.staleness import other_code
from workbench.headers import RunHeader

MARKS = {
    "finished": "● finished",
    "running": "▶ running",
    "interrupted": "◐ interrupted",
    "failed": "○ failed",
    "corrupt": "✕ corrupt",
    "newer": "✕ newer schema",
}
QUARTZ = "themeQuartz"
COLUMNS = [
    {"field": "arm", "width": 180},
    {"field": "kind", "width": 120},
    {"field": "attack", "width": 110},
    {"field": "seed", "width": 92, "filter": "agNumberColumnFilter"},
    {"field": "state", "width": 150},
    {"field": "age", "width": 92, "filter": False, "sort": "asc",
     "comparator": {"function": "nodeA.data.order - nodeB.data.order"}},
    {"field": "seconds", "headerName": "took (s)", "width": 112, "filter": False},
    {"field": "note", "flex": 1, "minWidth": 240, "tooltipField": "note"},
    {"field": "id", "width": 250},
    {"field": "model", "width": 140},
]  # fmt: skip


def modal() -> Any:
    """The run table over the page, empty until it is opened."""
    grid = dag.AgGrid(
        id="runs", columnDefs=COLUMNS, rowData=[], style={"height": "min(56vh, 560px)"},
        defaultColDef={"filter": True, "sortable": True, "resizable": True},
        getRowId="params.data.id",
        dashGridOptions={
            "theme": {"function": QUARTZ},
            "rowSelection": {"mode": "multiRow",
                             "isRowSelectable": {"function": "params.data.selectable"}},
            "rowHeight": 34, "headerHeight": 36, "tooltipShowDelay": 300, "animateRows": False,
        },
    )  # fmt: skip
    actions = dmc.Group(
        [
            dmc.TextInput(id="runs-filter", placeholder="filter: any word", size="xs", w=220,
                          debounce=150, **{"aria-label": "filter runs"}),
            html.Span(id="runs-count", className="provenance"),
            dmc.Group(
                [
                    dmc.Button("Use as baseline", id="runs-baseline", size="xs", variant="default"),
                    dmc.Button("Compare arms of chosen runs", id="runs-compare", size="xs"),
                ],
                gap="xs", ml="auto",
            ),
        ],
        mb="xs",
    )  # fmt: skip
    return dmc.Modal([actions, grid], id="runs-modal", title="Runs", size="min(1240px, 94vw)")


def register(app: Dash, reader: Reader) -> None:
    """Fill the table when it is opened; take arms from it."""

    @app.callback(
        Output("runs", "rowData"),
        Output("runs-count", "children"),
        Output("runs-modal", "title"),
        Input("runs-open", "n_clicks"),
        prevent_initial_call=True,
    )
    def fill(_clicks: int) -> tuple[Any, ...]:
        listing = reader.listing()
        unread = sum(run.state == "corrupt" for run in listing.runs)
        count = f"{len(listing.runs)} runs, {len(listing.shown)} shown in figures"
        count += f", {unread} unreadable" if unread else ""
        return rows(listing), count, f"Runs in {reader.store.root}"

    @app.callback(
        Output("baseline", "value", allow_duplicate=True),
        Output("compare", "value", allow_duplicate=True),
        Output("runs-modal", "opened", allow_duplicate=True),
        Input("runs-compare", "n_clicks"),
        State("runs", "selectedRows"),
        State("baseline", "value"),
        prevent_initial_call=True,
    )
    def compare(_clicks: int, chosen: list[dict[str, Any]] | None, baseline: str | None) -> Any:
        arms = list(dict.fromkeys(row["arm"] for row in chosen or ()))
        if not arms:
            return no_update, no_update, no_update
        first = baseline if baseline is not None else arms[0]
        return first, [arm for arm in arms if arm != first], False

    @app.callback(
        Output("baseline", "value", allow_duplicate=True),
        Output("runs-modal", "opened", allow_duplicate=True),
        Input("runs-baseline", "n_clicks"),
        State("runs", "selectedRows"),
        prevent_initial_call=True,
    )
    def baseline(_clicks: int, chosen: list[dict[str, Any]] | None) -> Any:
        return (chosen[0]["arm"], False) if chosen else (no_update, no_update)

    app.clientside_callback(
        ClientsideFunction("workbench", "open"),
        Output("runs-modal", "opened"),
        Input("runs-open", "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "grid"),
        Output("runs", "dashGridOptions"),
        Input("runs-filter", "value"),
        Input("theme", "data"),
        State("runs", "dashGridOptions"),
    )


def rows(listing: Listing) -> list[dict[str, Any]]:
    """One line a run, the youngest first."""
    now = datetime.now(UTC)
    shown = {run.id for run in listing.shown}
    lines = [_row(run, listing, run.id in shown, now) for run in listing.runs]
    return sorted(lines, key=lambda line: line["order"])


def _row(run: RunHeader, listing: Listing, shown: bool, now: datetime) -> dict[str, Any]:
    arm, attack = listing.names[run.id]
    seconds = _age(run.created, now)
    state = "newer" if _is_newer(run) else run.state
    return {
        "id": run.id,
        "arm": arm or "—",
        "kind": run.kind,
        "attack": attack or "—",
        "seed": run.seed if run.state != "corrupt" else None,
        "state": MARKS[state],
        "age": ago(seconds),
        "order": seconds if seconds is not None else float(1 << 40),
        "seconds": None if run.seconds is None else round(run.seconds, 1),
        "model": run.model or "—",
        "note": _note(run, listing),
        "selectable": shown,
    }


def _note(run: RunHeader, listing: Listing) -> str:
    """Why a run is not shown, or what a reader must know of it."""
    if run.id in listing.left_out:
        return listing.left_out[run.id]
    codes = other_code(run)
    return "" if codes is None else f"◷ made by code {codes[0]}; installed is {codes[1]}"


def _is_newer(run: RunHeader) -> bool:
    return run.state == "corrupt" and "written by a newer workbench" in (run.error or "")


def _age(created: str, now: datetime) -> float | None:
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return None
    return (now - (made if made.tzinfo else made.replace(tzinfo=UTC))).total_seconds()


def ago(seconds: float | None) -> str:
    """An age in one unit."""
    if seconds is None:
        return "—"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now"
