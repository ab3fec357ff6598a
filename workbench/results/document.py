"""`docs/results.md`, written from stored runs: nothing in it was typed by hand but the prose."""

from pathlib import Path
from typing import Any

from rich.console import Console

from workbench.lab.world import DOMAINS, SPLITS
from workbench.pillars import Thresholds
from workbench.progress import clock
from workbench.report import DEFENDED
from workbench.results.campaign import Campaign
from workbench.results.claims import RULE, claims
from workbench.results.findings import Findings, findings
from workbench.results.markdown import counted, item, wrapped
from workbench.results.notes import remarks
from workbench.results.pictures import PICTURES, pictures
from workbench.results.plan import FROM_BASE
from workbench.results.sections import main, prefills, rates, sweeps
from workbench.results.sweeps import swept_arms
from workbench.results.trials import tuning
from workbench.study import UNDEFENDED

HAZARDS = SPLITS["test"] * len(DOMAINS[DEFENDED])
"""Requests that harmfulness is a share of: one an entity and defended craft."""


def write(campaign: Campaign, out: Path, console: Console) -> None:
    """Write the document, and its figures beside it."""
    found = findings(campaign.store, campaign.runs, Thresholds())
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = pictures(campaign, out, console)
    parts = [
        _head(campaign),
        main(campaign, found),
        rates(campaign, found),
        prefills(campaign, found),
        sweeps(campaign, found),
        _claims(campaign, found),
        tuning(campaign),
        _failures(campaign),
    ]
    text = "\n\n".join(part for part in parts if part)
    for slot, picture in drawn.items():
        text = text.replace(f"<!-- {slot} -->", picture)
    for slot in PICTURES.keys() - drawn.keys():
        text = text.replace(f"\n\n<!-- {slot} -->", "")
    out.write_text(text + "\n")


def _head(campaign: Campaign) -> str:
    plan = campaign.plan
    attacks = len([r for r in campaign.runs if r.kind == "attack"])
    commit = ", ".join(sorted({_commit(r.git) for r in campaign.runs}))
    samples = ", ".join(sorted({str(a.samples) for a in plan.attacks.values()}))
    return "\n\n".join(
        [
            "# What the representation-level defences do on the lab models",
            wrapped(
                "Made by `workbench results`; the numbers of all tables come from stored runs, and "
                "the command goes on where it was stopped."
            ),
            wrapped(
                f"{attacks} attacks on {len(campaign.runs) - attacks} models: "
                f"{counted('base model', len(plan.bases))} × {counted('seed', len(plan.seeds))} "
                "(of defence and attack together; "
                f"`{UNDEFENDED}` and `{FROM_BASE}` are one model a base, counted once a seed), "
                f"{clock(campaign.seconds)} of wall time added up on a shared machine, tuning not "
                f"counted. Made at commit {commit}. The attacker fine-tunes all weights on "
                f"{samples} hazards of the `attack` split; break: the first evaluation with "
                f"harmfulness (share of {HAZARDS} hazards answered rightly) above "
                f"{Thresholds().phi:g} that the next confirms, known to lie in (last safe "
                "evaluation, that one]. All on `test` entities."
            ),
            wrapped(
                "**Read it as a test of instruments and of methods in principle, not as a "
                "ranking.** The lab models have 0.75 M parameters and fictional hazards "
                "([lab.md](lab.md)). The base models are those pre-trainings that pass the lab's "
                "gate, all of one world, though published numbers need two: results are "
                "conditional on passing. Pairs that share a base are not independent: bases are "
                "shown apart, and what is said of a method has to hold on each that was asked. "
                "Tuning saw the first base alone, so the others also say whether its choice "
                "carries over. Steps do not carry over to large models."
            ),
        ]
    )


def _commit(git: dict[str, Any] | None) -> str:
    if git is None:
        return "unknown"
    return str(git.get("commit", ""))[:10] + (" with local changes" if git.get("dirty") else "")


def _failures(campaign: Campaign) -> str:
    if not campaign.failed:
        return ""
    return "## Failed\n\n" + "\n".join(f"- {k}: {v}" for k, v in campaign.failed.items())


def _claims(campaign: Campaign, found: Findings) -> str:
    beside = remarks(campaign.chosen, campaign.plan.methods)
    lines = [
        item(f"**{c.text}** ({c.source}): {c.verdict}. {c.measured}.")
        for c in claims(found, swept_arms(campaign), beside)
    ]
    return "\n\n".join(["## The papers' claims, by their shape", wrapped(RULE), "\n".join(lines)])
