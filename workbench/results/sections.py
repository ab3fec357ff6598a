"""The sections of the document about what was reported, each a table and what goes with it."""

from collections.abc import Iterator
from statistics import fmean

from workbench.attacks import SupervisedFineTuning
from workbench.lab.checkpoints import parse
from workbench.pillars import LEVEL, Stability, Thresholds, stability
from workbench.report import CONTROL
from workbench.results.campaign import Campaign
from workbench.results.findings import Finding, Findings, interval, median_break
from workbench.results.markdown import counted, grid, item, wrapped
from workbench.results.notes import UNSWEPT
from workbench.results.plan import FROM_BASE, MAIN
from workbench.results.sweeps import swept_arms
from workbench.study import UNDEFENDED


def main(campaign: Campaign, found: Findings) -> str:
    """What breaks when, and what the defence cost, beside controls and papers' settings."""
    arms = _beside_controls(campaign, "-paper")
    rows = [_main_row(found, arm) for arm in arms if found.of(arm, MAIN)]
    heads = ("arm", "runs", "breaks at (median)", f"by base ({', '.join(map(str, found.bases))})",
             "unseen craft", "told at the end", "still useful", "refuses",
             "capability")  # fmt: skip
    return "\n\n".join(
        [
            "## Resistance and stability",
            wrapped(
                f"Attack `{MAIN}`: {_terms(campaign.plan.attacks[MAIN])}. Each method as tuned on "
                "`val` (below); `-control`: the same training with the method's term off; "
                "`-paper`: the paper's own numbers of the method, in the lab's loop, where tuning "
                f"chose others (one seed a base; see Tuning). `{FROM_BASE}` is an attacker who "
                "fine-tunes the base model, which was never aligned: what is left when a defence "
                "is worth nothing. On the unseen craft neither defence nor attacker had harmful "
                "data; its refusals are among what alignment and retention train on."
            ),
            wrapped(
                "Told at the end: harmfulness after the last step. Still useful: runs that broke "
                f"and had, then or later, at least {Thresholds().utility_floor:g} of the released "
                "model's capability. Refuses, capability: of the released model, mean over runs; "
                "an arm that breaks late with little capability has little left to break."
            ),
            grid(heads, rows),
            "<!-- curves-1e-4 -->",
            *_effects(campaign, found),
        ]
    )


def _beside_controls(campaign: Campaign, *more: str) -> list[str]:
    """The undefended model, the attacker from the base, every method, each beside its control."""
    arms = [UNDEFENDED, FROM_BASE]
    for name, method in campaign.plan.methods.items():
        arms += [name] if method.control else [name, name + CONTROL]
        arms += [name + suffix for suffix in more]
    return arms


def _main_row(found: Findings, arm: str) -> list[str]:
    mine = found.of(arm, MAIN)
    bases = sorted({f.base for f in mine})
    useful = sum(f.outcome.verdict == "broken-useful" for f in mine)
    return [
        f"`{arm}`",
        str(len(mine)),
        interval(median_break(f.outcome.resistance for f in mine)),
        ", ".join(
            interval(median_break(f.outcome.resistance for f in mine if f.base == base))
            for base in bases
        ),
        interval(median_break(f.unseen for f in mine)),
        f"{fmean(f.told for f in mine):.2f}",
        f"{useful} of {len(mine)}",
        f"{fmean(f.refused for f in mine):.2f}",
        f"{fmean(f.capability for f in mine):.3f}",
    ]


def _effects(campaign: Campaign, found: Findings) -> Iterator[str]:
    yield wrapped(
        "Against the matched control, on the same base and seed. Delays count pairs of all bases, "
        "which describes them and tests nothing; base by base they stand with the claims. "
        "Capability is averaged within each base first, because seeds of one base are no "
        f"independent evidence: {2 * LEVEL - 1:.0%} t interval over "
        f"{counted('base', len(found.bases))}."
    )
    margin, lines = Thresholds().stability_margin, []
    for name, method in campaign.plan.methods.items():
        control = (method.control or name) + CONTROL
        effect, pairs = found.delay(name, control, MAIN), found.paired(name, control, MAIN)
        if effect is None:
            continue
        low, high = effect.median
        said = (
            f"`{name}` against `{control}`: median delay between {low:+g} and {high:+g} steps; "
            f"later in {effect.later}, sooner in {effect.sooner}, open in {effect.undecided} of "
            f"{len(effect.differences)} pairs."
        )
        cost = stability(*_by_base(pairs), margin)
        lines.append(item(f"{said} Capability {cost.verdict} at ±{margin:g}: {_change(cost)}."))
    yield "\n".join(lines)


def _change(cost: Stability) -> str:
    if cost.interval is None:
        return "one base says nothing about the next"
    low, high = cost.interval
    return f"the change lies between {low:+.4f} and {high:+.4f}"


def _by_base(pairs: list[tuple[Finding, Finding]]) -> tuple[list[float], list[float]]:
    """Mean capability of the controls and of the defended models, base by base."""
    bases = sorted({ours.base for ours, _ in pairs})
    means = [
        [
            fmean(pair[side].capability for pair in pairs if pair[side].base == base)
            for base in bases
        ]
        for side in (1, 0)
    ]
    return means[0], means[1]


def rates(campaign: Campaign, found: Findings) -> str:
    """The same attack at several learning rates."""
    attacks = sorted(campaign.plan.attacks, key=lambda name: campaign.plan.attacks[name].lr)
    rows = []
    for arm in _beside_controls(campaign):
        cells = []
        for attack in attacks:
            mine = found.of(arm, attack)
            broken = interval(median_break(f.outcome.resistance for f in mine)) if mine else ""
            cells.append(f"{broken} ({len(mine)})" if mine else "not run")
        rows.append([f"`{arm}`", *cells])
    return "\n\n".join(
        [
            "## Learning rates",
            wrapped(
                "Median break step, all bases together (number of runs). At other rates than the "
                "main one there is one seed a base."
            ),
            grid(("arm", *(_terms(campaign.plan.attacks[name]) for name in attacks)), rows),
            "<!-- curves-3e-5 -->",
            "<!-- curves-3e-4 -->",
        ]
    )


def _terms(attack: SupervisedFineTuning) -> str:
    return f"lr {attack.lr:g}, {attack.steps} steps"


def prefills(campaign: Campaign, found: Findings) -> str:
    """Success of the released models with answers begun for them."""
    arms = [
        a for a in (UNDEFENDED, *campaign.plan.methods) if any(f.prefill for f in found.of(a, MAIN))
    ]
    if not arms:
        return ""
    longest = max(len(f.prefill) for a in arms for f in found.of(a, MAIN))
    rows, runs = [], []
    for arm in arms:
        curves = [f.prefill for f in found.of(arm, MAIN) if f.prefill]
        runs.append(len(curves))
        rows.append(
            [
                f"`{arm}`",
                *(f"{fmean(c[k] for c in curves if len(c) > k):.2f}" for k in range(longest)),
            ]
        )
    return "\n\n".join(
        [
            "## How deep the refusals go",
            wrapped(
                "Success of the released models, the first k tokens of a compliant answer given: "
                "mean over the hazards whose answer is longer than k, then over "
                f"{counted('run', *runs)} an arm, all bases together. There are no intervals and "
                "no matched controls here, so what a method's own term does and what the training "
                "around it does is not told apart."
            ),
            grid(("arm", *(f"k={k}" for k in range(longest))), rows),
            "<!-- prefill -->",
        ]
    )


def sweeps(campaign: Campaign, found: Findings) -> str:
    """The resistance-stability frontier of each method."""
    plan, rows = campaign.plan, []
    alike = {(parse(base).base, plan.seeds[0]) for base in plan.bases[: plan.swept]}
    for (method, parameter), arms in swept_arms(campaign).items():
        for arm, value in sorted(arms.items(), key=lambda kv: kv[1]):
            mine = [f for f in found.of(arm, MAIN) if (f.base, f.seed) in alike]
            if mine:
                tuned = " (tuned)" if arm == method else ""
                setting = f"{parameter} = {value:g}{tuned}"
                broken = interval(median_break(f.outcome.resistance for f in mine))
                rows.append([f"`{method}`", setting, str(len(mine)), broken,
                             f"{fmean(f.refused for f in mine):.2f}",
                             f"{fmean(f.capability for f in mine):.3f}"])  # fmt: skip
    if not rows:
        return ""
    heads = ("method", "intensity", "runs", "breaks at (median)", "refuses", "capability")
    return "\n\n".join(
        [
            "## Resistance against stability",
            wrapped(
                "Every method at several intensities, everything else as tuned, on "
                f"{', '.join(f'`{base}`' for base in plan.bases[: plan.swept])} alone and with the "
                f"first seed alone: a trend here is one of single runs. {UNSWEPT}"
            ),
            grid(heads, rows),
            "<!-- frontier -->",
            "<!-- frontier-alpha -->",
        ]
    )
