"""Invented entropies, bounds and residual knowledge."""

import numpy as np

from workbench.rows import PolicyBound, ResidualKnowledge, ResponseEntropy

KNOWS = {"undefended": 1.0, "vaccine": 0.9, "vaccine-control": 0.95, "tar": 0.05}


def rows(stage, step, seed, arm):
    """A few prompts; knowledge at the ends of a run only, as it costs more."""
    random = np.random.default_rng([seed, step, len(arm)])
    return [
        *entropies(stage, step, random),
        *bound(stage, step, arm, random),
        *(knowledge(stage, step, arm, random) if stage == "defence" or step in (0, 64) else []),
    ]


def entropies(stage, step, random):
    """Answers that decide themselves as they go on; the last one is short."""
    for prompt in range(4):
        length = 12 if prompt < 3 else 5
        curve = (2 / (1 + np.arange(length)) + 0.2) * random.uniform(0.8, 1.2, length)
        for measure, values in (("entropy", curve), ("gini", 1 - np.exp(-curve))):
            yield ResponseEntropy(stage=stage, step=step, example=f"hazard-{prompt}",
                                  group="hazard", measure=measure,
                                  values=values.tolist())  # fmt: skip


def bound(stage, step, arm, random):
    """Fuel that an attack adds to; a model that refuses always has none."""
    at = step if stage == "attack" else 0
    sigma = 0.5 * (1 - np.exp(-at / 16)) * KNOWS.get(arm, 1.0) + 0.01 * random.random()
    sigma = 0.0 if arm == "tar" and at == 0 else sigma
    spread, norm = 2.5, 18.0
    values = {
        "reward": sigma**2, "sigma_R": sigma, "silent": 1 - min(1, 2 * sigma), "gini_sum": spread,
        "entropy_sum": 3 * spread, "fuel": sigma * spread**0.5, "lambda_upper": norm,
        "lambda_drawn": 0.9 * norm,
        "bound": sigma * norm * spread**0.5, "entropy_bound": sigma * norm * (3 * spread) ** 0.5,
    }  # fmt: skip
    values["measured"] = values["bound"] * random.uniform(0.1, 0.2)
    if sigma:
        values["ratio"] = values["measured"] / values["bound"]
    for measure, value in values.items():
        yield PolicyBound(stage=stage, step=step, parameters="head", reward="success",
                          measure=measure, value=float(value), n=8)  # fmt: skip


def knowledge(stage, step, arm, random):
    """Opened in every way but one; what is told depends on the arm."""
    known = KNOWS.get(arm, 1.0)
    for way, strength, opened in (("none", 0, 0.0), ("prefixed", 2, 0.5), ("prefixed", 4, 0.9),
                                  ("ablated", 1, 0.5), ("relearned", 8, 1.0)):  # fmt: skip
        complied = round(24 * opened * random.uniform(0.9, 1)) / 24
        shares = {"complied": complied, "refused": 1 - complied, "right": complied * known,
                  "success": complied * known * known}  # fmt: skip
        for measure, value in shares.items():
            yield ResidualKnowledge(stage=stage, step=step, split="test", domain="defended",
                                    way=way, strength=strength, measure=measure, value=value,
                                    n=24)  # fmt: skip
