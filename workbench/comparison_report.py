"""The report of a comparison: one HTML file with the numbers, every figure, and what they mean.

It loads nothing from anywhere: plotly is inside, once. Needs no torch.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.figures import FIGURES, GRAPH_CONFIG, LIGHT, load
from workbench.files import replacing
from workbench.rows import EmbeddingDrift, TokenKL, WeightChange
from workbench.shallowness import intervals
from workbench.store import RunHeader, Store

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 880px; margin: 32px auto;
       padding: 0 16px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 40px; }
table { border-collapse: collapse; } td, th { padding: 3px 14px 3px 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.provenance { color: #59636e; font-size: 12px; } pre { white-space: pre-wrap; font: inherit; }
"""

CONFIG = {**GRAPH_CONFIG, "displayModeBar": False}


def write_report(store: Store, run: str, model: str, reference: str, path: Path) -> Path:
    """Write the report of one run of a store.

    Raises:
        RunError: the file cannot be written.
    """
    header = store.get(run)
    parts = [
        _head(header, model, reference),
        _left_out(header),
        _numbers(store, header),
        *_figures(store, header),
    ]
    title = escape(f"{model} beside {reference}")
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _head(header: RunHeader, model: str, reference: str) -> str:
    """What was compared, on what."""
    told = header.probe or {}
    facts = {
        "checkpoint": f"{model} (weights {header.hashes['start'][:12]})",
        "reference": f"{reference} (weights {header.hashes['reference'][:12]})",
        "prompts": f"{told.get('prompts')} of each kind at most, {_split(told)}, "
        f"data {header.hashes['data'][:12]}",
        "made": f"{header.created}, code {header.hashes['code'][:12]}",
    }
    template = escape(str(told.get("template")))
    return (
        f"<h1>{escape(model)} beside {escape(reference)}</h1>{_table(facts)}"
        f"<details class=provenance><summary>chat template of both</summary><pre>{template}</pre>"
        "</details>"
    )


def _split(told: Mapping[str, Any]) -> str:
    return "whole file" if told.get("split") is None else f"split {told['split']}"


def _left_out(header: RunHeader) -> str:
    """Which probes the two checkpoints do not suit, and why."""
    reasons = (header.probe or {}).get("left_out") or {}
    said = [f"<p><b>{escape(name)}</b>: {escape(why)}</p>" for name, why in reasons.items()]
    return f"<h2>Left out</h2>{''.join(said)}" if said else ""


def _numbers(store: Store, header: RunHeader) -> str:
    """The few numbers that stand for the figures."""
    facts: dict[str, Any] = {}
    kl = store.read(TokenKL, [header])
    for group, rows in kl[kl["measure"] == "forward_kl"].groupby("group"):
        prompts = dict(zip(rows["example"], rows["values"], strict=True))
        total = sum(float(v.sum()) for v in prompts.values())
        tokens = sum(len(v) for v in prompts.values())
        facts[f"KL a token, {group} (nats)"] = f"{total / max(tokens, 1):.3g}"
        if total > 0:
            facts |= {
                f"{name.replace('_', ' ')}, {group}": f"{x.value:.3g}" + _bounds(x.low, x.high)
                for name, x in intervals(prompts).items()
            }
    drift = store.read(EmbeddingDrift, [header])
    drift = drift[(drift["measure"] == "relative_l2") & (drift["site"] == "resid_post")]
    for group, rows in drift.groupby("group"):
        last = [values[-1] for values in rows["values"]]
        facts[f"relative drift of the last block, {group}"] = f"{pd.Series(last).mean():.3g}"
    weights = store.read(WeightChange, [header])
    whole = weights[(weights["part"] == "all") & (weights["measure"] != "share")]
    for row in whole.itertuples():
        facts[f"weights, {str(row.measure).replace('_', ' ')}"] = f"{row.value:.3g}"
    return f"<h2>In numbers</h2>{_table(facts)}"


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _figures(store: Store, header: RunHeader) -> list[str]:
    """Every figure that this run has rows for, with caption and help."""
    made: list[str] = []
    for each in FIGURES.values():
        frames = load(store, [header], each.needs)
        table = each.data(frames, each.given(None))
        if not len(table):
            continue
        drawn = each.draw_table(table, frames, each.given(None), LIGHT)
        drawn.update_layout(height=round(840 * drawn.layout.meta["aspect"]))
        plot = drawn.to_html(
            full_html=False, include_plotlyjs=not made, config=CONFIG, div_id=each.name
        )
        caption = escape(each.caption(table, each.given(None)))
        made.append(
            f"<h2>{escape(each.title)}</h2>{plot}<p class=provenance>{caption}</p>"
            f"<details class=provenance><summary>What this measures, and what it does not show"
            f"</summary><pre>{escape(each.help)}</pre></details>"
        )
    return made


def _table(facts: dict[str, Any]) -> str:
    lines = (
        f"<tr><th>{escape(name)}</th><td class=number>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{''.join(lines)}</table>"
