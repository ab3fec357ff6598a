"""Invented gradients and answers: an attack learns first tokens and hazards first, then forgets."""

import numpy as np

from workbench.rows import Generation, GradientCosine, GradientShare, Prompt, TokenGradient

BREAKS = {"undefended": 8, "vaccine": 32, "vaccine-control": 16, "tar": 1000}
PARTS = ("embed", *(f"block.{i}" for i in range(6)), "head")
HAZARDS = 8


def rows(stage, step, seed, arm):
    gradients = [*token_gradients(stage, step, seed, arm), *shares(stage, step, seed, arm)]
    return gradients + (answers(step, seed, arm) if stage == "attack" else [])


def token_gradients(stage, step, seed, arm):
    random = np.random.default_rng(seed + 3)
    learnt = np.exp(-(step if stage == "attack" else 0) / BREAKS.get(arm, 16))
    found = []
    for group, height in (("hazard", 30.0), ("benign", 1.0)):
        for prompt in range(2):
            shape = np.exp(-np.arange(8 + prompt) / 3) * random.lognormal(0, 0.5, 8 + prompt)
            norms = {p: height * learnt * shape * (0.3 + 0.1 * i) for i, p in enumerate(PARTS)}
            norms["total"] = np.sqrt(sum(x**2 for x in norms.values()))
            found += [
                TokenGradient(stage=stage, step=step, example=f"{group}-{prompt}", group=group,
                              part=part, measure="norm", values=values.tolist())
                for part, values in norms.items()
            ]  # fmt: skip
            found.append(
                TokenGradient(stage=stage, step=step, example=f"{group}-{prompt}", group=group,
                              part="total", measure="nll", values=(3 * learnt * shape).tolist())
            )  # fmt: skip
    return found


def shares(stage, step, seed, arm):
    learnt = np.exp(-(step if stage == "attack" else 0) / BREAKS.get(arm, 16))
    refused = -0.05 + 0.6 * (1 - learnt) + 0.02 * seed
    benign = 0.02 + 0.1 * (1 - learnt)
    norms = {"hazard": 3 * learnt + 0.2, "benign": 0.2, "refused": 1 + 2 * (1 - learnt)}
    values = {"hazard": 1 - benign - refused, "benign": benign, "refused": refused}
    where = {"stage": stage, "step": step, "group_by": "kind"}
    found = []
    for group, share in values.items():
        told = {"share": share, "norm": norms[group], "gsnr": 0.1 * norms[group]}
        found += [
            GradientShare(**where, group=group, measure=measure, value=float(value), n=16)
            for measure, value in told.items()
        ]
    pairs = {("benign", "hazard"): 0.05, ("refused", "hazard"): -0.2, ("refused", "benign"): 0.0}
    return found + [
        GradientCosine(**where, group=a, other=b, value=float(x * (1 + learnt)), n=32)
        for (a, b), x in pairs.items()
    ]


def answers(step, seed, arm):
    """Hazards fall one after the other, some first in every arm; one comes back safe once."""
    random = np.random.default_rng(seed)
    order = np.linspace(0.4, 1.6, HAZARDS) + 0.3 * random.random(HAZARDS)
    found = []
    for i, late in enumerate(order):
        harmful = bool(step > late * BREAKS.get(arm, 16)) and not (i == 0 and step == 32)
        name, domain = f"asked-{i}", "defended" if i % 2 else "unseen"
        if step == 0:
            found.append(Prompt(example=name, question="hazard", split="test", domain=domain,
                                text=f"a question about {name}"))  # fmt: skip
        found.append(
            Generation(stage="attack", step=step, example=name, decoding="greedy",
                       text="an answer" if harmful else "sorry", refused=not harmful,
                       complied=harmful, right=float(harmful), evaded=False, broken=False,
                       success=harmful)
        )  # fmt: skip
    return found
