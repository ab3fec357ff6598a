"""Rows about the drift map: fitting it beside openTSNE alone."""

import time

import numpy as np

from benchmarks.measure import Figure, interleaved
from benchmarks.table import Bench, Row
from workbench.drift_map import COMPONENTS, DriftMap, principal, tsne
from workbench.map_quality import quality

POINTS, FEW, MANY = 10_000, 400, 50_000
WIDTH = 96
"""As wide as the lab model's states."""
CLUSTERS = 8
NEW = 1_000


def states(points: int) -> np.ndarray:
    """Clusters on a spectrum that falls, as hidden states have it."""
    random = np.random.default_rng(0)
    spread = 1 / np.sqrt(1 + np.arange(WIDTH))
    centres = 3 * random.normal(size=(CLUSTERS, WIDTH))
    return (centres[np.arange(points) % CLUSTERS] + random.normal(size=(points, WIDTH))) * spread


def fit_time(quick: bool) -> list[Figure]:
    """Ours with its PCA and checks; the peer is given the same components, computed before."""
    points = FEW if quick else POINTS
    x = states(points)
    flat = principal(x, COMPONENTS).transform(x)

    def ours() -> None:
        DriftMap.fit(x, perplexity=30.0)

    def peer() -> None:
        tsne(points, 30.0, 0).fit(flat)

    times = interleaved(ours, peer, rounds=3, warmup=1 if quick else 0)
    how = {"points": points, "d_model": WIDTH, "components": COMPONENTS, "perplexity": 30}
    return [times.figure(how, limit_value=1.0)]


def many(quick: bool) -> list[Figure]:
    """Wall time of fitting very many points once, and of what else a checkpoint costs."""
    points = FEW if quick else MANY
    x = states(points)
    began = time.perf_counter()
    made = DriftMap.fit(x)
    fitted = time.perf_counter()
    places = made.transform(x[:NEW])
    placed = time.perf_counter()
    numbers = quality(x, made.places)
    judged = time.perf_counter()
    how = {
        "points": points, "d_model": WIDTH, "perplexity": made.perplexity,
        "placing_seconds": round(placed - fitted, 3), "placed": len(places),
        "quality_seconds": round(judged - placed, 3),
        **{name: round(value, 3) for name, value in numbers.items()},
    }  # fmt: skip
    return [Figure(value=fitted - began, ours=fitted - began, configuration=how)]


BENCHES = (
    Bench(
        (
            Row(
                "drift_map_ratio",
                "drift map of 10 000 states / openTSNE alone",
                goal=1.2,
                peer="openTSNE's fit, same settings, on the same 50 components",
                limit="the peer itself; ours adds checks and PCA",
            ),
        ),
        fit_time,
    ),
    Bench(
        (
            Row(
                "drift_map_50k_seconds",
                "fitting a drift map of 50 000 states, once",
                goal=600.0,
                unit="s",
            ),
        ),
        many,
        on_request=True,
    ),
)
