"""The report of a comparison: one HTML file with the numbers, every figure, and what they mean.

It loads nothing from anywhere: plotly is inside, once. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import product
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


def write_report(store: Store, runs: Sequence[str], model: str, reference: str, path: Path) -> Path:
    """Write the report of a comparison, which is one run of a store or several.

    Args:
        store: where the runs are.
        runs: their ids: the checkpoint beside its reference, then beside others.
        model: the checkpoint, as it was given.
        reference: what it is compared with, likewise.
        path: the file to write.

    Raises:
        RunError: the file cannot be written.
    """
    headers = [store.get(run) for run in runs]
    parts = [
        _head(headers, model, reference),
        _left_out(headers[0]),
        _numbers(store, headers),
        *_figures(store, headers),
    ]
    title = escape(f"{model} beside {reference}")
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as file:
        file.write(text.encode())
    return path


def _head(headers: Sequence[RunHeader], model: str, reference: str) -> str:
    """What was compared, on what."""
    header, *others = headers
    told = header.probe or {}
    facts = {
        "checkpoint": f"{model} (weights {header.hashes['start'][:12]})",
        "reference": f"{reference} (weights {header.hashes['reference'][:12]})",
    }
    for other in others:
        base = (other.probe or {})["reference"]
        facts["base of both"] = f"{base} (weights {other.hashes['reference'][:12]})"
    facts |= {
        "prompts": f"{prompts_read(told)}, data {header.hashes['data'][:12]}",
        "made": f"{header.created}, code {header.hashes['code'][:12]}",
    }
    template = escape(str(told.get("template")))
    return (
        f"<h1>{escape(model)} beside {escape(reference)}</h1>{_table(facts)}"
        f"<details class=provenance><summary>chat template of both</summary><pre>{template}</pre>"
        "</details>"
    )


def prompts_read(told: Mapping[str, Any]) -> str:
    """How many prompts were read of how many, by what the header tells."""
    size, held = told["prompts"], told.get("held")
    if held is None:
        return f"{size} of each kind at most, split {told['split']}"
    return f"whole file, all {held}" if size >= held else f"the first {size} of {held} in the file"


def _left_out(header: RunHeader) -> str:
    """Which probes the two checkpoints do not suit, and why."""
    reasons = (header.probe or {}).get("left_out") or {}
    said = [f"<p><b>{escape(name)}</b>: {escape(why)}</p>" for name, why in reasons.items()]
    return f"<h2>Left out</h2>{''.join(said)}" if said else ""


def weights_label(measure: str, reference: str, beside: str) -> str:
    """What a number of the weights is, what it is against, and which change it is laid beside."""
    told = f"weights, {measure.replace('_', ' ')}, against {reference}"
    return f"{told}, beside {beside}" if beside else told


def _numbers(store: Store, headers: Sequence[RunHeader]) -> str:
    """The few numbers that stand for the figures."""
    facts: dict[str, Any] = {}
    kl = store.read(TokenKL, headers)
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
    drift = store.read(EmbeddingDrift, headers)
    drift = drift[(drift["measure"] == "relative_l2") & (drift["site"] == "resid_post")]
    for group, rows in drift.groupby("group"):
        last = [values[-1] for values in rows["values"]]
        facts[f"relative drift of the last block, {group}"] = f"{pd.Series(last).mean():.3g}"
    weights = store.read(WeightChange, headers)
    whole = weights[(weights["part"] == "all") & (weights["measure"] != "share")]
    for row in whole.itertuples():
        label = weights_label(str(row.measure), str(row.reference), str(row.beside))
        facts[label] = f"{row.value:.3g}"
    return f"<h2>In numbers</h2>{_table(facts)}"


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _figures(store: Store, headers: Sequence[RunHeader]) -> list[str]:
    """Every figure that each of the runs has rows for, with caption and help."""
    made: list[str] = []
    for header, each in product(headers, FIGURES.values()):
        origin = "" if header is headers[0] else f", against {(header.probe or {})['reference']}"
        frames = load(store, [header], each.needs)
        table = each.data(frames, each.given(None))
        if not len(table):
            continue
        drawn = each.draw_table(table, frames, each.given(None), LIGHT)
        drawn.update_layout(height=round(840 * drawn.layout.meta["aspect"]))
        plot = drawn.to_html(
            full_html=False,
            include_plotlyjs=not made,
            config=CONFIG,
            div_id=f"{each.name}-{len(made)}",
        )
        caption = escape(each.caption(table, each.given(None)))
        made.append(
            f"<h2>{escape(each.title + origin)}</h2>{plot}<p class=provenance>{caption}</p>"
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
