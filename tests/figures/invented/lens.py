"""Invented rows of the logit lens: layers settle late, refusals rise in the middle."""

import numpy as np

from workbench.rows import LensByLayer


def rows(stage, step, seed, arm):
    random = np.random.default_rng(seed + 11)
    reference = "base" if stage == "defence" else "released"
    depth = np.linspace(0, 1, 7)
    late = {"undefended": 0.5, "tar": 0.8}.get(arm, 0.65)
    found = []
    for group in ("hazard", "benign"):
        for whose in ("checkpoint", "reference"):
            rise = 1 / (1 + np.exp(-12 * (depth - late * (whose == "checkpoint") - 0.1)))
            refuses = rise * (0.9 if group == "hazard" and whose == "checkpoint" else 0.03)
            measures = {
                "kl_to_final": 6 * (1 - depth) ** 2 * (1 + 0.05 * random.random(7)),
                "entropy": 3 * (1 - rise) + 0.2,
                "nll": 4 * (1 - rise) + 4 * refuses,
                "rank": 20 * (1 - rise) + 5 * refuses,
                "committed": rise,
                "refusal_mass": refuses,
            }
            if whose == "checkpoint":
                measures["kl_to_reference"] = 4 * refuses
            found += [
                LensByLayer(stage=stage, step=step, reference=reference, whose=whose, group=group,
                            position=position, measure=measure, values=values.tolist(),
                            low=(0.8 * values).tolist(), high=(1.2 * values).tolist(), prompts=6)
                for position in (0, 1) for measure, values in measures.items()
            ]  # fmt: skip
    return found
