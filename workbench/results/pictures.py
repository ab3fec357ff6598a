"""The figures of the document, of the swept bases or of the first, and what stands behind each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile

from rich.console import Console

from workbench.figures import FIGURES, export, load, paper
from workbench.figures.browser import Browser
from workbench.headers import RunHeader
from workbench.report import CONTROL
from workbench.results.campaign import Campaign
from workbench.results.markdown import counted, wrapped
from workbench.results.plan import FAST, FROM_BASE, MAIN, SLOW
from workbench.results.sweeps import swept_arms
from workbench.study import UNDEFENDED

PICTURES: dict[str, tuple[str, str | None]] = {
    "frontier": ("frontier", MAIN),
    "frontier-alpha": ("frontier", MAIN),
    "curves-1e-4": ("attack_budget", MAIN),
    "curves-3e-4": ("attack_budget", FAST),
    "curves-3e-5": ("attack_budget", SLOW),
    "prefill": ("prefill", None),
}
"""Slot in the document to figure and attack."""
MARKS = {
    "frontier": "No bands; a whisker spans the two evaluations between which a run broke",
    "attack_budget": "Line: median over seeds; band: order statistics (of three seeds, all)",
    "prefill": "Thick line: mean over seeds; thin lines: single seeds; no bands",
}
"""How a figure shows several seeds."""
BANDED = 3
"""Seeds that a band needs (`pillars.summarise`)."""


def pictures(campaign: Campaign, out: Path, console: Console) -> dict[str, str]:
    """Draw each picture beside the document; returns slot to Markdown."""
    theme = paper("neurips", "full")
    drawn = {}
    with Browser() as browser:
        for slot, (name, attack) in PICTURES.items():
            figure = FIGURES[name]
            shown = _shown(campaign, slot)
            frames = load(campaign.store, shown, figure.needs)
            params = {"attack": attack} if attack else {}
            if figure.missing(frames, params) is not None:
                continue
            folder = campaign.store.root.with_name("figures") / slot
            made = export(figure, frames, folder, theme, browser, params=params, formats=("png",))
            if made.problem:
                console.print(made.problem, style="yellow", highlight=False, markup=False)
                continue
            (png,) = (f for f in made.files if f.suffix == ".png")
            copyfile(png, out.with_name(f"{out.stem}-{slot}.png"))
            image = f"![{figure.title}]({out.stem}-{slot}.png)"
            behind = caption(_bases(campaign, name), shown, name, attack)
            drawn[slot] = f"{image}\n\n{wrapped(behind)}"
    return drawn


def caption(
    bases: Sequence[str], shown: Sequence[RunHeader], figure: str, attack: str | None
) -> str:
    """Of which bases a picture is, how many seeds an arm has in it, and whether there are bands."""
    seeds = defaultdict[str, set[int]](set)
    for run in shown:
        if attack in (None, (run.attack or {}).get("name")):
            seeds[run.arm].add(run.seed)
    counts = [len(of_arm) for of_arm in seeds.values()]
    few = figure == "attack_budget" and max(counts) < BANDED
    marks = "Too few for bands" if few else MARKS[figure]
    named = ", ".join(f"`{base}`" for base in bases)
    return f"Of {named} alone, {counted('seed', *counts)} an arm. {marks}."


def _bases(campaign: Campaign, figure: str) -> tuple[str, ...]:
    """The swept ones in the frontier; else the first."""
    return campaign.plan.bases[: campaign.plan.swept if figure == "frontier" else 1]


def _shown(campaign: Campaign, slot: str) -> list[RunHeader]:
    """The runs of one picture: sweeps, all with one seed, or the methods, all seeds."""
    methods = {UNDEFENDED, FROM_BASE, *campaign.plan.methods}
    figure, _ = PICTURES[slot]
    bases = {base.partition(",")[2] for base in _bases(campaign, figure)}
    if figure == "frontier":
        swept = set(_swept(campaign, alpha=slot == "frontier-alpha"))
        beside = {UNDEFENDED} if swept else set[str]()
        return [
            run
            for run in campaign.runs
            if run.arm.removesuffix(CONTROL) in swept | beside
            and run.model.partition(",")[2] in bases
            and run.seed == campaign.plan.seeds[0]
        ]
    return [
        run for run in campaign.runs if run.arm in methods and run.model.partition(",")[2] in bases
    ]


def _swept(campaign: Campaign, alpha: bool) -> Iterator[str]:
    """The arms of every method's first sweep, or of the sweeps of α that come after another.

    One line of the frontier is one method, so two sweeps of a method are two pictures.
    """
    for (name, parameter), arms in swept_arms(campaign).items():
        first = next(iter(campaign.plan.methods[name].sweeps))
        if (parameter == "alpha") if alpha else (parameter == first):
            yield from arms
