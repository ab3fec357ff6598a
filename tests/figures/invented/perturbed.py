"""Invented pushes: they grow most in block 4, and talk attacked models out of nothing more."""

import numpy as np

from workbench.rows import Amplification, Damper, PerturbedNLL

BREAKS = {"undefended": 8, "vaccine": 32, "vaccine-control": 16, "tar": 1000}
LAYERS = 6


def rows(stage, step, seed, arm):
    attacked = 1 - np.exp(-(step if stage == "attack" else 0) / BREAKS.get(arm, 16))
    if stage == "attack" and step not in (0, 64):  # the first and the last are enough to draw
        return []
    reference = "released" if stage == "attack" else "base"
    where = {"stage": stage, "step": step}
    return [
        *pushes(where, attacked, seed),
        *growth(where | {"reference": reference}, attacked, seed),
        *dampers(where | {"reference": reference}, attacked, seed),
    ]


def pushes(where, attacked, seed):
    random = np.random.default_rng(seed)
    rise = np.linspace(0.3, 1, LAYERS + 1)
    for example in range(3):
        for draw in range(4):
            gradient = draw == 3
            height = (0.9 - 0.5 * attacked) * rise if gradient else 0.05
            yield PerturbedNLL(
                **where, example=f"refused-{example}", group="refused",
                family="gradient" if gradient else "random", draw=0 if gradient else draw,
                epsilon=0.5, positions="last_prompt", clean=0.3 + 4 * attacked,
                values=(height + 0.05 * random.normal(size=LAYERS + 1)).tolist(),
            )  # fmt: skip


def growth(where, attacked, seed):
    block = np.array([9.0, 1.1, 1.15, 1.2, 2.0 - 0.7 * attacked, 1.3, 1.2]) + 0.02 * seed
    for family, more in (("random", 0.6), ("gradient", 1.0), ("steering", 0.8), ("real", 0.9)):
        for start in range(LAYERS + 1):
            gain = np.cumprod(np.concatenate([[1.0], 1 + more * (block[start:-1] - 1)]))
            turned = 80 * (1 - 1 / gain)
            values = {"gain": gain, "relative": gain**0.5, "angle": turned}
            yield from (
                Amplification(**where, group="hazard", family=family, epsilon=0.02,
                              positions="last_prompt", from_layer=start, measure=measure, n=16,
                              values=numbers.tolist())
                for measure, numbers in values.items()
            )  # fmt: skip


def dampers(where, attacked, seed):
    fall = np.linspace(0.2, 0.8 - 0.3 * attacked, LAYERS) + 0.01 * seed
    values = {"fall": fall, "control": 0.01 * np.ones(LAYERS), "side_effect": 0.1 - 0.09 * fall}
    for family in ("gradient", "steering", "real"):
        for measure, numbers in values.items():
            yield Damper(**where, group="hazard", family=family, epsilon=0.02, n=16,
                         positions="last_prompt", from_layer=1, measure=measure,
                         values=numbers.tolist())  # fmt: skip
