"""Sets of states and maps of them: hazards are dragged along the direction, vaccine's less so."""

import numpy as np

from workbench.rows import DirectionalDrift, DriftMapPoint, MapQuality, StateSimilarity

GROUPS = ("hazard", "benign")
PULL = {"undefended": 1.0, "vaccine": 0.5, "vaccine-control": 0.8, "tar": 0.2}
LAYERS, PROMPTS = 6, 8


def rows(stage, step, seed, arm):
    reference = "base" if stage == "defence" else "released"
    told = {"stage": stage, "step": step, "reference": reference}
    told |= {"site": "resid_post", "positions": "last_prompt"}
    pull = PULL.get(arm, 0.6) * (1 + 0.1 * seed) * step / (step + 20)
    random = np.random.default_rng(1000 * seed + step)
    return [*sets(told, pull, random), *a_map(told, pull, seed, random)]


def sets(told, pull, random):
    depth = np.linspace(0.2, 1, LAYERS)
    for group in GROUPS:
        share = {"hazard": 1.0, "benign": 0.25}[group]
        along = -pull * share * depth * (1 + 0.05 * random.normal(size=LAYERS))
        orthogonal = 0.6 * pull * depth
        total = np.maximum(along**2 + orthogonal**2, 1e-12)
        moves = {"along": along, "orthogonal": orthogonal, "along_share": along**2 / total,
                 "along_low": along - 0.1 * pull, "along_high": along + 0.1 * pull,
                 "gap": 0.5 * depth}  # fmt: skip
        for measure, values in moves.items():
            yield DirectionalDrift(
                **told, group=group, measure=measure, n=PROMPTS, values=values.tolist()
            )
        alike = {"cka": 1 - 0.6 * pull * share * depth, "procrustes": 0.5 * pull * share * depth}
        for measure, values in alike.items():
            yield StateSimilarity(
                **told, group=group, measure=measure, n=PROMPTS, values=values.tolist()
            )


def a_map(told, pull, seed, random):
    """Two clusters; hazards go over to the benign one."""
    told = {**told, "layer": LAYERS - 1, "method": "tsne"}
    at = np.random.default_rng(seed)
    for group, x in (("hazard", -10.0), ("benign", 10.0)):
        for prompt, (dx, dy) in enumerate(at.normal(scale=3, size=(PROMPTS, 2))):
            way = pull * (20 if group == "hazard" else 2) * np.sign(-x) * (0.6 + 0.1 * prompt)
            yield DriftMapPoint(
                **told, example=f"{group}-{prompt}", group=group, x=x + dx + way,
                y=dy + pull * float(random.normal()), x_then=x + dx, y_then=dy,
            )  # fmt: skip
    quality = {"trustworthiness": 0.9 - 0.05 * pull, "knn_kept": 0.55, "drift": 120 * pull,
               "relative_drift": 0.5 * pull, "perplexity": 5.0}  # fmt: skip
    for measure, value in quality.items():
        yield MapQuality(**told, measure=measure, value=value, n=2 * PROMPTS)
