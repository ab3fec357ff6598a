"""The figures of the document: of the swept bases, or of the first."""

from pathlib import Path
from shutil import copyfile

from rich.console import Console

from workbench.figures import FIGURES, export, load, paper
from workbench.figures.browser import Browser
from workbench.headers import RunHeader
from workbench.report import CONTROL
from workbench.results.campaign import Campaign
from workbench.results.plan import FAST, FROM_BASE, MAIN, SLOW
from workbench.results.sweeps import swept_arms
from workbench.study import UNDEFENDED

PICTURES: dict[str, tuple[str, str | None]] = {
    "frontier": ("frontier", MAIN),
    "curves-1e-4": ("attack_budget", MAIN),
    "curves-3e-4": ("attack_budget", FAST),
    "curves-3e-5": ("attack_budget", SLOW),
    "prefill": ("prefill", None),
}
"""Slot in the document to figure and attack."""


def pictures(campaign: Campaign, out: Path, console: Console) -> dict[str, str]:
    """Draw each picture beside the document; returns slot to Markdown."""
    theme = paper("neurips", "full")
    drawn = {}
    with Browser() as browser:
        for slot, (name, attack) in PICTURES.items():
            figure = FIGURES[name]
            frames = load(campaign.store, _shown(campaign, name), figure.needs)
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
            drawn[slot] = f"![{figure.title}]({out.stem}-{slot}.png)"
    return drawn


def _shown(campaign: Campaign, figure: str) -> list[RunHeader]:
    """The runs of one figure: the sweeps, all with one seed, or the methods, all seeds."""
    methods = {UNDEFENDED, FROM_BASE, *campaign.plan.methods}
    if figure == "frontier":
        swept = {arm for arms in swept_arms(campaign).values() for arm in arms} | {UNDEFENDED}
        bases = {base.partition(",")[2] for base in campaign.plan.bases[: campaign.plan.swept]}
        return [
            run
            for run in campaign.runs
            if run.arm.removesuffix(CONTROL) in swept
            and run.model.partition(",")[2] in bases
            and run.seed == campaign.plan.seeds[0]
        ]
    first = campaign.plan.bases[0].partition(",")[2]
    return [
        run for run in campaign.runs if run.arm in methods and run.model.partition(",")[2] == first
    ]
