"""Answers: what each arm says to one prompt, before and after the attack.

Text of prompts and models goes only into plain text nodes. Hazardous text does not leave the server
before the reader asks for it, prompt by prompt.
"""

import re
from typing import Any

import dash_mantine_components as dmc
import pandas as pd
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from app.reading import Reader
from app.session import Session
from workbench.figures import Frames
from workbench.rows import Generation, Prompt

NEEDS = (Prompt, Generation)
KINDS = {"hazard": "hazardous", "benign": "benign", "skill": "skill", "judgement": "judgement"}
MOST_OFFERED = 400


def card(session: Session) -> list[Any]:
    """The card, its prompt chosen and its text hidden; nothing when no text was kept."""
    frames = session.frames(NEEDS)
    prompts = _prompts(frames)
    if not len(prompts):
        return []
    return [
        dmc.Paper(
            [
                html.H2("What does each arm answer to one prompt?", className="question"),
                dmc.Group(
                    [
                        html.Div([html.Span("prompt", className="label"), dmc.Select(
                            id="answers-prompt", data=_choices(prompts), size="xs", w=360,
                            value=_chosen(session, prompts), searchable=True, allowDeselect=False,
                            nothingFoundMessage="no such prompt", limit=100,
                            **{"aria-label": "prompt"})], className="labelled"),
                        dmc.Button("Show text", id="answers-show", size="xs", variant="default"),
                    ],
                    className="settings",
                ),
                html.Div(id="answers-body"),
                dcc.Store(id="answers-opened",
                          data=[session.view.prompt, _chosen(session, prompts)]),
            ],
            className="card",
        )
    ]  # fmt: skip


def register(app: Dash, reader: Reader) -> None:
    """Show the answers to the prompt that the address names."""

    @app.callback(
        Output("answers-body", "children"),
        Output("answers-show", "style"),
        Input("view", "data"),
        Input("answers-prompt", "value"),
        Input("revealed", "data"),
    )
    def answers(query: str | None, prompt: str | None, revealed: str | None) -> tuple[Any, Any]:
        if query is None or prompt is None:
            return no_update, no_update
        session = Session.open(reader, query)
        frames = session.frames(NEEDS)
        prompts = _prompts(frames)
        if prompt not in prompts.index:
            return dmc.Text("These runs do not have this prompt.", size="sm"), {"display": "none"}
        about = {name: str(prompts.at[prompt, name]) for name in prompts.columns}
        hidden = about["question"] == "hazard" and revealed != prompt
        body = _body(frames, about, prompt, session, hidden)
        return body, {} if hidden else {"display": "none"}

    app.clientside_callback(
        ClientsideFunction("workbench", "reveal"),
        Output("revealed", "data"),
        Input("answers-show", "n_clicks"),
        State("answers-prompt", "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("workbench", "pickPrompt"),
        Output("prompt", "data", allow_duplicate=True),
        Input("answers-prompt", "value"),
        State("prompt", "data"),
        State("answers-opened", "data"),
        prevent_initial_call=True,
    )


def _prompts(frames: Frames) -> pd.DataFrame:
    return frames[Prompt].drop_duplicates("example").set_index("example")


def _choices(prompts: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"group": KINDS[str(kind)], "items": part.index.tolist()[:MOST_OFFERED]}
        for kind, part in prompts.groupby("question", sort=False)
    ]


def _chosen(session: Session, prompts: pd.DataFrame) -> str:
    asked = session.view.prompt
    known = asked is not None and asked in prompts.index
    return str(asked if known else prompts.index[0])


def _body(
    frames: Frames, prompt: dict[str, str], example: str, session: Session, hidden: bool
) -> list[Any]:
    answers = frames[Generation]
    answers = answers[answers["example"] == example]
    lines = [_line(arm, answers[answers["arm"] == arm], session, hidden) for arm in session.arms]
    asked = "whole file" if prompt["split"] == "whole" else f"split {prompt['split']}"
    kind = f"{KINDS[prompt['question']]} prompt, {prompt['domain']}, {asked}"
    return [
        html.Pre(_text(prompt["text"], hidden), className="prompt-text"),
        html.Div([line for part in lines for line in part], className="answers"),
        html.P(
            f"{kind} · attack {session.view.attack or '—'} · first seed of each arm"
            + (" · text hidden" if hidden else ""),
            className="provenance",
        ),
    ]


def _line(arm: str, answers: pd.DataFrame, session: Session, hidden: bool) -> list[Any]:
    """The arm, its released answer, and its answer at the attack step of the cursor."""
    if not len(answers):
        return [html.Div(arm, className="arm"), html.Div("—"), html.Div("—")]
    answers = answers[answers["seed"] == answers["seed"].min()]
    attacked = answers[
        (answers["stage"] == "attack") & (answers["attack"] == (session.view.attack or ""))
    ].sort_values("step")
    before = attacked[attacked["step"] == 0] if len(attacked) else answers
    wanted = attacked["step"].max() if session.view.step is None else session.view.step
    return [
        html.Div(arm, className="arm"),
        _answer("released", before.head(1), hidden),
        _answer("attacked", attacked[attacked["step"] <= wanted].tail(1), hidden),
    ]


def _answer(name: str, found: pd.DataFrame, hidden: bool) -> Any:
    if not len(found):
        return html.Div([html.Span(f"{name}: no answer kept", className="label")])
    row = found.iloc[0]
    verdict = "refused" if row["refused"] else "complied" if row["complied"] else "neither"
    told = f", {100 * row['right']:.0f} % of the secret right" if row["right"] > 0 else ""
    when = f"{name}, step {row['step']}" if name == "attacked" else name
    return html.Div(
        [
            html.Span(f"{when}: {verdict}{told}", className="label"),
            html.Pre(_text(str(row["text"]), hidden)),
        ]
    )


def _text(text: str, hidden: bool) -> Any:
    """A text, or as many blurred letters."""
    return html.Span(re.sub(r"\S", "x", text), className="hidden-text") if hidden else text
