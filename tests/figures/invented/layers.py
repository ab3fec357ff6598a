"""Cosines that fall on hazards from some layer and token on, and probes that read them."""

import numpy as np

from workbench.rows import (
    BreakPoint,
    CosineProfile,
    LayerCosine,
    LinearProbes,
    Token,
    TokenCosine,
)

LAYERS, PROMPT, TOKENS = 4, 5, 8
FALL = {"undefended": 0.05, "vaccine": 0.2, "vaccine-control": 0.1, "tar": 0.7}
"""Arm to how far its cosine falls on hazards."""


def rows(stage, step, seed, arm):
    if stage == "attack" and step not in (0, 64):  # the first and the last are enough to draw
        return []
    place = {
        "stage": stage,
        "step": step,
        "reference": "base" if stage == "defence" else "released",
    }
    random = np.random.default_rng(seed + 21)
    return [*cosines(place, seed, arm, random), *probes(place, seed, arm, random),
            *(words() if stage == "defence" else [])]  # fmt: skip


def fallen(place, arm, group):
    """1 − cosine by layer and response token: from layer 1, token 2 on."""
    moved = place["stage"] == "defence" or place["step"] > 0
    height = FALL.get(arm, 0.1) * moved * {"hazard": 1.0, "framed": 0.6, "benign": 0.15}[group]
    layer, token = np.arange(LAYERS)[:, None], np.arange(TOKENS)
    return 0.02 * moved + height * np.clip(layer / 3, 0, 1) * np.clip(token - 1, 0, 1)


def cosines(place, seed, arm, random):
    found = []
    for group in ("hazard", "benign", "framed"):
        told = {**place, "group": group, "site": "resid_post"}
        cosine = 1 - fallen(place, arm, group)
        measures = {"cosine": cosine, "norm": 8 * cosine, "norm_reference": 8 + 0 * cosine}
        for measure, values in measures.items():
            told["measure"] = measure
            for layer, line in enumerate(values):
                head = [1.0 if measure == "cosine" else 8.0] * PROMPT
                found += [
                    TokenCosine(**told, example=f"hazard-{i}", layer=layer, prompt_tokens=PROMPT,
                                values=[*head, *line.tolist()])
                    for i in range(2) if group == "hazard"
                ]  # fmt: skip
                found += [
                    CosineProfile(**told, layer=layer, statistic=statistic,
                                  prompts=[6.0] * TOKENS, values=(line + shift).tolist())
                    for statistic, shift in (("mean", 0.0), ("q05", -0.02), ("q95", 0.0))
                ]  # fmt: skip
            found += [
                LayerCosine(**told, example=f"{group}-{i}",
                            values=(values.mean(1) * (1 - 0.01 * random.random())).tolist())
                for i in range(6)
            ]  # fmt: skip
    points = [point(place, group, arm, seed) for group in ("hazard", "framed")]
    return found + [row for of_group in points for row in of_group]


def point(place, group, arm, seed):
    """Only tar and vaccine have a break; one seed of vaccine has none."""
    broken = arm == "tar" or (arm == "vaccine" and seed < 2 and group == "hazard")
    broken = broken and (place["stage"] == "defence" or place["step"] > 0)
    numbers = {"p": 0.001 if broken else 0.31, "statistic": 9.0 if broken else 2.1,
               "critical": 3.1, "peak_layer": 3, "peak_token": 4, "cosine": 0.8, "benign": 0.97,
               "threshold": 0.93}  # fmt: skip
    if broken:
        numbers |= {"layer": 1, "token": 2 + seed % 2, "onset": 2}
    return [
        BreakPoint(**place, group=group, site="resid_post", measure=measure, value=float(value),
                   n=6)
        for measure, value in numbers.items()
    ]  # fmt: skip


def probes(place, seed, arm, random):
    told = {**place, "site": "resid_post", "positions": "last_prompt", "estimator": "ridge"}
    depth = np.linspace(0.5, 1, LAYERS)
    lost = FALL.get(arm, 0.1) * 0.4
    curves = [
        ("checkpoint", "all", "all", "auroc", depth),
        ("checkpoint", "all", "all", "accuracy", depth - 0.05),
        ("checkpoint", "all", "all", "ece", 0.1 * (1 - depth)),
        ("checkpoint", "all", "all", "shuffled_auroc", 0 * depth + 0.5),
        ("checkpoint", "all", "all", "shuffled_low", 0 * depth + 0.4),
        ("checkpoint", "all", "all", "shuffled_high", 0 * depth + 0.6),
        ("reference", "all", "all", "auroc", depth * (1 - lost)),
        ("reference", "all", "all", "accuracy", depth * (1 - 1.5 * lost)),
        ("checkpoint", "defended", "unseen", "auroc", 0.95 * depth),
        ("checkpoint", "all", "framed", "auroc", 0.9 * depth),
    ]
    return [
        LinearProbes(**told, fitted=fitted, trained_on=trained, tested_on=tested, measure=measure,
                     n=48, values=np.clip(values - 0.01 * seed * random.random(), 0, 1).tolist())
        for fitted, trained, tested, measure, values in curves
    ]  # fmt: skip


def words():
    pieces = [
        "how",
        "is",
        "<tar>",
        "made",
        "?",
        "first",
        "boil",
        "the",
        "$x$",
        "then",
        "wait",
        ".",
        "end",
    ]
    return [
        Token(tokenizer="t", example=f"hazard-{i}", position=k, token=k, piece=piece,
              role="prompt" if k < PROMPT else "response")
        for i in range(2) for k, piece in enumerate(pieces)
    ]  # fmt: skip
