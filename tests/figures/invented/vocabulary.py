"""Invented rows of the vocabulary pass: refusals that aligned models are sure of at first."""

import numpy as np

from workbench.rows import TokenMover, TokenStatistics

PIECES = ["▁I", "▁cannot", "▁Sure", "▁the", "<b>$x$"]


def rows(stage, step, seed, arm):
    random = np.random.default_rng(seed + 7)
    reference = "base" if stage == "defence" else "released"
    who = {"stage": stage, "step": step, "reference": reference}
    apart = {"undefended": 0.9, "vaccine": 0.8, "tar": 0.6}.get(arm, 0.7)
    found = []
    for group in ("hazard", "benign"):
        kept = apart if group == "hazard" else 0.05
        for whose in ("checkpoint", "reference"):
            k = np.arange(12)
            refuses = kept * np.exp(-k / 2) * (whose == "checkpoint") + 0.01
            noise = 1 + 0.1 * random.random(12)
            for measure, values in {
                "refusal_mass": refuses * noise / 1.1,
                "nll": (0.4 + 4 * refuses) * noise,
                "entropy": (0.8 - 0.5 * refuses) * noise,
                "gini": (0.5 - 0.3 * refuses) * noise,
            }.items():
                found.append(
                    TokenStatistics(whose=whose, group=group, measure=measure,
                                    values=values.tolist(), low=(0.7 * values).tolist(),
                                    high=(1.2 * values).tolist(),
                                    prompts=np.linspace(6, 2, 12).round().tolist(), **who)
                )  # fmt: skip
        for position in range(3):
            for token, piece in enumerate(PIECES):
                p, q = (0.5 * kept, 0.02)[:: 1 if token < 2 else -1]
                p = p * (1 - 0.1 * token) / (1 + position)
                found.append(
                    TokenMover(group=group, example=f"{group}-0", position=position, token=token,
                               piece=piece, p=p, q=q, contribution=float(p * np.log(p / q)), **who)
                )  # fmt: skip
    return found
