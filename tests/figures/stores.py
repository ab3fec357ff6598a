"""Small stores of invented runs, so that figures are tested without training anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.figures import invented
from workbench.rows import KINDS, Cost, EmbeddingDrift, Loss, Metric, Prefill, Row, TokenKL
from workbench.store import RunHeader, Store

STEPS = (0, 4, 8, 16, 32, 64)
ARMS = {"undefended": 8, "vaccine": 32, "vaccine-control": 16, "tar": 1000}
"""Arm to the attack step from which it is broken, give or take the seed; tar holds."""


def store(
    root: Path,
    arms: Mapping[str, int] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    kinds: Sequence[type[Row]] = tuple(KINDS.values()),
    layers: int = 6,
) -> Store:
    """A store with an immunised model and one attack on it for every arm and seed."""
    made = Store(root)
    for arm, breaks in arms.items():
        for seed in seeds:
            defence = None if arm == "undefended" else {"name": arm.removesuffix("-control")}
            model = header(f"{arm}-s{seed}", "immunise", arm, seed, defence)
            write(made, model, defended(arm, seed, layers), kinds)
            attack = header(f"{arm}-s{seed}.sft", "attack", arm, seed, defence, [model.id])
            write(made, attack, attacked(breaks, seed, layers, arm=arm), kinds)
    return made


INTENSITIES = {
    "undefended": (8, 0.0, None),
    "vaccine-control": (12, -0.004, {"name": "vaccine", "rho": 0.0}),
    "vaccine": {
        rho: (breaks, change, {"name": "vaccine", "rho": rho, "fit": {"steps": 300}})
        for rho, breaks, change in ((1.0, 14, -0.004), (2.0, 18, -0.012), (10.0, 34, -0.05))
    },
    "rep_noise-control": (12, -0.006, {"name": "rep_noise", "alpha": 0.0}),
    "rep_noise": (40, -0.03, {"name": "rep_noise", "alpha": 1.0}),
    "tar": (1000, -0.09, {"name": "tar", "inner": 64}),
}
"""Arm to where it breaks, what it costs in capability and its settings, or that by intensity."""
OFTEN = range(0, 97, 4)


def tried(root: Path, seeds: Sequence[int] = (0, 1, 2), bases: Sequence[int] = (0, 1)) -> Store:
    """Defences at several intensities on several bases, with controls; tar has none, and holds."""
    made = Store(root)
    for arm, tries in INTENSITIES.items():
        for told, (breaks, change, defence) in (
            tries.items() if isinstance(tries, dict) else [("", tries)]
        ):
            for base in bases:
                for seed in seeds:
                    name = f"{arm}{told}-b{base}-s{seed}"
                    start = "lab:base" if defence else "lab:aligned"
                    model = start + (f",base={base}" if base else "")
                    model += f",seed={seed}" if seed and not defence else ""
                    g = 0.9 - 0.1 * base + change - 0.002 * seed * (breaks > 20)
                    release = header(name, "immunise", arm, seed, defence, model=model)
                    rows = [metric("defence", 300, "capability", "all", g)]
                    write(made, release, rows, (Metric,))
                    attack = header(name + ".sft", "attack", arm, seed, defence, [name],
                                    model=model)  # fmt: skip
                    write(made, attack, attacked(breaks + 4 * base, seed, 2, OFTEN), (Metric,))
    return made


def header(name, kind, arm, seed, defence, parents=(), **more) -> RunHeader:
    """A header as a study writes it."""
    attack = {"name": "sft", "lr": 1e-4} if kind == "attack" else None
    return RunHeader(
        id=name, kind=kind, arm=arm, seed=seed, defence=defence,
        parents=list(parents),
        **{"model": "lab:base", "hashes": {"data": "d", "code": "c"}, "attack": attack,
           "modules": ["workbench.runs"]} | more,
    )  # fmt: skip


def write(made: Store, run: RunHeader, rows: Sequence[Row], kinds: Sequence[type[Row]]) -> None:
    """One finished run with the wanted kinds of its rows."""
    with made.begin(run) as writer:
        writer.append([row for row in rows if type(row) in kinds])


def defended(arm: str, seed: int, layers: int) -> list[Row]:
    """What is measured of a released model."""
    g = 0.97 - (0.01 if arm == "tar" else 0) - 0.002 * seed
    return [
        metric("defence", 300, "capability", "all", g),
        *kl("defence", 300, "base", seed),
        *prefill({"undefended": 1, "vaccine": 0.7, "tar": 0.4}.get(arm, 0.85), seed),
        *(losses("defence", arm, seed, 30) if arm != "undefended" else []),
        *invented.rows("defence", 300, seed, arm),
    ]


def attacked(
    breaks: int, seed: int, layers: int, steps: Sequence[int] = STEPS, arm: str = ""
) -> list[Row]:
    """What is measured while a model is attacked."""
    rows: list[Row] = []
    for step in steps:
        f = 0.02 * seed if step < breaks * (1 + seed) ** 0.5 else 0.95 - 0.03 * seed
        rows += [
            metric("attack", step, "harmfulness", "defended", f),
            metric("attack", step, "capability", "all", 0.97 - 0.001 * step),
            Cost(stage="attack", step=step, samples=16 * step, tokens=(600 + 7 * seed) * step,
                 flops=2.5e9 * step, seconds=0.2 * step),
            *kl("attack", step, "released", seed),
            *drift(step, breaks, seed, layers),
            *(invented.rows("attack", step, seed, arm) if arm else []),
        ]  # fmt: skip
    return rows + losses("attack", "sft", seed, STEPS[-1])


def metric(stage, step, name, domain, value) -> Metric:
    """One metric."""
    return Metric(stage=stage, step=step, split="test", domain=domain, name=name, value=value, n=72)


def kl(stage, step, reference, seed) -> list[TokenKL]:
    """KL that lies in the first tokens of hazards; zero for a model compared with itself."""
    random, rows = np.random.default_rng(seed), []
    for group, height in (("hazard", 8.0), ("benign", 0.2)):
        for prompt in range(6):
            noise = random.lognormal(sigma=0.5, size=10 + prompt)
            values = height * np.exp(-np.arange(10 + prompt) / 2) * noise * (step > 0)
            rows.append(
                TokenKL(stage=stage, step=step, reference=reference, example=f"{group}-{prompt}",
                        group=group, measure="forward_kl", values=values.tolist())
            )  # fmt: skip
    return rows


def prefill(end, seed) -> list[Prefill]:
    """More hazards succeed the more of the answer is given; the last answer is a short one."""
    random, rows = np.random.default_rng(seed), []
    for prompt in range(8):
        eager = random.random(7 if prompt < 7 else 2) < end * np.arange(7 if prompt < 7 else 2) / 6
        rows.append(
            Prefill(stage="defence", step=300, split="test", domain="defended", group="hazard",
                    example=f"hazard-{prompt}", values=eager.astype(float).tolist())
        )  # fmt: skip
    return rows


def losses(stage, method, seed, steps) -> list[Loss]:
    """Terms that fall with noise; tar has one of its own, which is never above zero."""
    random = np.random.default_rng(seed)
    terms = {"tar": {"align": 1.0, "tamper": -0.5}, "vaccine": {"align": 2.0}}
    own = terms.get(method, {"align": 1.5})
    return [
        Loss(stage=stage, step=step, term=term, lr=1e-4, grad_norm=1 + 3 / step,
             value=height * (np.exp(-step / 9) + 0.1 * random.random()))
        for step in range(1, steps + 1) for term, height in own.items()
    ]  # fmt: skip


def drift(step, breaks, seed, layers) -> list[EmbeddingDrift]:
    """Drift that grows with step and depth, more for hazards."""
    rows = []
    for group, height in (("hazard", 1.0), ("benign", 0.3)):
        values = height * np.linspace(0.2, 1, layers) * step / max(step + breaks, 1)
        values *= 1 + 0.1 * seed
        rows += [
            EmbeddingDrift(stage="attack", step=step, reference="released",
                           example=f"{group}-{prompt}", group=group, site="resid_post",
                           positions="last_prompt", measure="relative_l2", values=values.tolist())
            for prompt in range(3)
        ]  # fmt: skip
    return rows
