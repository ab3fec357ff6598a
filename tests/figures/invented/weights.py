"""Weight changes that grow with depth, at an angle a little above the right one."""

from workbench.rows import WeightChange

PARTS = ["embedding", *(f"block {i}" for i in range(4)), "final norm", "head", "all"]


def rows(stage, step, seed, arm):
    made = []
    for i, part in enumerate(PARTS):
        numbers = {
            "norm": 0.2 * (i + 1) + 0.01 * seed,
            "relative_norm": 0.01 * (i + 1) + 0.001 * seed + 0.002 * len(arm) * (step > 0),
            "share": 1 / len(PARTS),
            "angle": 92.0 + 5 * i - seed,
            "kept": 0.9,
            "by_chance": 1.5 + i,
        }
        made += [
            WeightChange(stage=stage, step=step, reference="base", beside="aligned", part=part,
                         measure=name, value=value, n=1000 + i)
            for name, value in numbers.items()
        ]  # fmt: skip
    return made
