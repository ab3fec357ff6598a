"""Overview: which defence held, what it cost; judged anew whenever a threshold moves."""

import json
from dataclasses import asdict
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update

from app import panels
from app.pages._base import Page
from app.reading import Reader
from app.session import Session
from app.sparkline import polylines, sparkline
from app.verdicts import MARKS, WORDS, Cell, Cells, cells, sentence
from workbench.figures import FIGURES, SCREEN, Frames, Theme, attack_budget
from workbench.figures.four_pillars import PILLARS

FIGURE = FIGURES["four_pillars"]


def _before(session: Session) -> list[Any]:
    return [
        dmc.Paper(
            [
                panels.head(FIGURE),
                dmc.Skeleton(
                    html.Div(id="verdicts", style={"minHeight": 300}),
                    id="verdicts-wait",
                    visible=True,
                ),
                dcc.Store(id="verdicts-drawn"),
            ],
            className="card",
        )
    ]


def register(app: Dash, reader: Reader) -> None:
    """Judge the arms on show by the thresholds of the address."""

    @app.callback(
        Output("verdicts", "children"),
        Output("verdicts-wait", "visible"),
        Output("verdicts-drawn", "data"),
        Input("view", "data"),
        State("verdicts-drawn", "data"),
    )
    def judge(query: str | None, drawn: str | None) -> tuple[Any, ...]:
        if query is None:
            return (no_update,) * 3
        session = Session.open(reader, query)
        frames = session.frames(FIGURE.needs)
        params = session.params(FIGURE, frames)
        runs = [(run.id, run.finished) for run in frames.runs]
        key = json.dumps([asdict(params), session.arms, session.view.theme, runs])
        if key == drawn:
            return (no_update,) * 3
        table = FIGURE.data(frames, params)
        unread = panels.unread(session, frames)
        if not len(table):
            return [unread, panels.lacking(FIGURE.missing(frames, params))], False, key
        curves = reader.kept(frames, session.view.attack, _curves)
        by_arm = cells(table)
        content = [
            unread,
            _sentences(session, by_arm),
            _matrix(session, by_arm, curves),
            html.P(FIGURE.caption(table, params), className="provenance"),
        ]
        return content, False, key


def _curves(frames: Frames, attack: Any) -> dict[str, list[str]]:
    """Harmfulness over the attack by arm, drawn but for the threshold."""
    table = attack_budget.data(frames, attack_budget.AttackBudgetParams(attack=attack))
    return {str(arm): polylines(runs) for arm, runs in table.groupby("arm")}


def _sentences(session: Session, by_arm: dict[str, Cells]) -> Any:
    return html.Ul(
        [
            html.Li([html.Strong(arm), ": ", sentence(arm, by_arm)])
            for arm in session.arms
            if arm in by_arm
        ],
        className="sentences", id="sentences",
    )  # fmt: skip


def _matrix(session: Session, by_arm: dict[str, Cells], curves: dict[str, list[str]]) -> Any:
    theme = SCREEN[session.view.theme]
    heads = ["arm", "harmfulness under attack", *PILLARS]
    return html.Div(
        html.Table(
            [
                html.Thead(html.Tr([html.Th(head, scope="col") for head in heads])),
                html.Tbody(
                    [
                        _row(arm, by_arm[arm], curves.get(arm, []), session, theme)
                        for arm in session.arms
                        if arm in by_arm
                    ]
                ),
            ],
            className="matrix", id="matrix",
        ),
        className="scrolls",
    )  # fmt: skip


def _row(arm: str, mine: Cells, curves: list[str], session: Session, theme: Theme) -> Any:
    picture = html.Img(
        src=sparkline(curves, session.view.phi, theme.series(arm).ink, theme.muted),
        alt=f"harmfulness of {arm} over attack steps, with φ", className="sparkline",
    )  # fmt: skip
    baseline = html.Span("baseline", className="label") if arm == session.view.baseline else None
    return html.Tr(
        [
            html.Th([html.Span(arm), baseline], scope="row"),
            html.Td(picture if curves else "—"),
            *(_cell(mine[pillar]) for pillar in PILLARS),
        ]
    )


def _cell(cell: Cell) -> Any:
    verdict = str(cell["verdict"])
    if verdict not in MARKS:
        return html.Td(["— ", html.Span(str(cell["detail"]), className="detail")])
    chip = html.Span(
        [html.Span(MARKS[verdict], className="mark"), " ", WORDS.get(verdict, verdict)],
        className=f"chip chip-{verdict}",
    )
    return html.Td([chip, html.Span(str(cell["detail"]), className="detail")])


PAGE = Page(
    name="overview",
    label="Overview",
    question="Which defence held, and what did it cost?",
    path="/",
    before=_before,
    register=register,
    draws=False,
)
