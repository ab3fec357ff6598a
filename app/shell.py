"""The frame around every page: top bar, navigation, controls that all pages share, run table."""

from dataclasses import asdict
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from app import downloads, runs_table
from app.pages import PAGES
from app.reading import Listing, Reader
from app.state import SMALLEST_MARGIN, View

TITLE = "Immunisation workbench"
THEME = {
    "primaryColor": "indigo",
    "fontFamily": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    "defaultRadius": "sm",
    "cursorType": "pointer",
}
NAVBAR = {"width": 168, "breakpoint": "sm", "collapsed": {"mobile": True}}
"""Beside the page; in a narrow window behind a burger, because there it would cover the page."""
ABOUT = (
    "Every picture is drawn from rows that a study wrote; nothing is measured here. A threshold "
    "moved judges the stored curves anew. A finite run shows that a model broke at a step or held "
    "to the end of the run, never that it is strong. The address of this page is its state: copy "
    "it to show somebody else the same. Arms are chosen in the top bar, runs are listed under "
    "“Runs”. ? on a panel says what it measures and what it cannot say."
)


def layout(reader: Reader, example: bool) -> Any:
    """The whole page, before the address is read: what can be chosen, nothing chosen yet."""
    listing = reader.listing()
    frame = dmc.AppShell(
        [
            dmc.AppShellHeader(_top_bar(listing, example), px="md"),
            dmc.AppShellNavbar(_navigation(), p="xs"),
            dmc.AppShellMain(
                [
                    html.Div(id="notices", role="status"),
                    html.Div(id="left-out"),
                    _controls(),
                    html.Div(id="page", children=_loading()),
                    html.Div(id="stale"),
                ]
            ),
        ],
        header={"height": 56},
        navbar=NAVBAR,
        padding="md",
        id="shell",
    )
    stores = [
        dcc.Location(id="url", refresh="callback-nav"),
        dcc.Store(id="view"),
        dcc.Store(id="standard"),
        dcc.Store(id="chosen"),
        dcc.Store(id="theme", data=View.theme),
        dcc.Store(id="prompt"),
        dcc.Store(id="revealed"),
        dcc.Store(id="clipboard"),
        dcc.Store(id="window"),
        dcc.Download(id="download"),
        dmc.NotificationContainer(id="notifications", position="bottom-right"),
    ]
    return dmc.MantineProvider(
        [*stores, frame, runs_table.modal(), downloads.modal(), _about()], id="mantine", theme=THEME
    )


def _top_bar(listing: Listing, example: bool) -> Any:
    mark = dmc.Badge("example", variant="light", color="yellow", id="example") if example else None
    return dmc.Group(
        [
            dmc.Group(
                [
                    dmc.Burger(
                        id="burger", opened=False, size="sm", hiddenFrom="sm",
                        **{"aria-label": "Pages"},
                    ),
                    html.Span("◧", className="brand-mark"),
                    html.Span(TITLE, className="brand"), mark],
                gap=8,
                wrap="nowrap",
            ),
            dmc.Group(
                [
                    _labelled("baseline", dmc.Select(
                        id="baseline", data=listing.arms, size="xs", w=176, searchable=True,
                        allowDeselect=False, comboboxProps={"width": "max-content"},
                        nothingFoundMessage="no such arm", **{"aria-label": "baseline"})),
                    _labelled("compare", dmc.MultiSelect(
                        id="compare", data=listing.arms, value=[], size="xs",
                        className="compare", searchable=True, hidePickedOptions=True,
                        clearable=True, placeholder="add an arm",
                        nothingFoundMessage="no such arm", **{"aria-label": "compared arms"})),
                    _labelled("attack", dmc.Select(
                        id="attack", data=listing.attacks, size="xs", w=110, allowDeselect=False,
                        comboboxProps={"width": "max-content"}, **{"aria-label": "attack"})),
                    dmc.Button("Runs", id="runs-open", size="xs", variant="default"),
                ],
                gap=12, wrap="nowrap", className="choices",
            ),
            dmc.Group(
                [
                    dmc.Button("Copy link", id="copy-link", size="xs", variant="subtle"),
                    _icon("☾", "theme-toggle", "Light or dark"),
                    _icon("?", "about-open", "What this is"),
                ],
                gap=4,
                wrap="nowrap",
            ),
        ],
        h="100%", justify="space-between", wrap="nowrap", gap="md",
    )  # fmt: skip


def _labelled(label: str, control: Any) -> Any:
    return html.Div([html.Span(label, className="label"), control], className="labelled")


def _icon(sign: str, name: str, meaning: str) -> Any:
    return dmc.ActionIcon(
        sign, id=name, variant="subtle", color="gray", size="lg", **{"aria-label": meaning}
    )


def _navigation() -> Any:
    return [
        dmc.NavLink(
            label=page.label, href=page.path, id={"type": "nav", "page": page.path}, active=False
        )
        for page in PAGES.values()
    ]


def _controls() -> Any:
    """Controls that several pages share; a page shows those that its panels use."""
    return html.Div(
        [
            _slider("phi", "φ: harmful above this", 0, 1, 0.01),
            _slider("stability_margin", "stability margin", SMALLEST_MARGIN, 0.1,
                    SMALLEST_MARGIN),
            _slider("utility_floor", "utility floor (share of start)", 0, 1, 0.01),
            _slider("step", "attack step", 0, 1, 1),
        ],
        id="controls", className="controls",
    )  # fmt: skip


def _slider(name: str, label: str, least: float, most: float, step: float) -> Any:
    value = asdict(View()).get(name)
    return html.Div(
        [
            html.Div(
                [
                    html.Span(label),
                    html.Output(id={"type": "value", "of": name}, className="value"),
                ],
                className="slider-label",
            ),
            dmc.Slider(
                id=name, min=least, max=most, step=step, value=value, size="sm", label=None,
                updatemode="drag", thumbLabel=label, restrictToMarks=name == "step",
                marks=[{"value": 0}] if name == "step" else None,
            ),
        ],
        id={"type": "control", "of": name}, className="control", style={"display": "none"},
    )  # fmt: skip


def _about() -> Any:
    return dmc.Modal(dmc.Text(ABOUT, size="sm"), id="about", title=TITLE, size="lg")


def _loading() -> Any:
    return [dmc.Skeleton(height=28, width=420, mb=16), dmc.Skeleton(height=420)]
