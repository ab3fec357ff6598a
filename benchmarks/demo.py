"""Rows about `make demo`: how long the first run takes, and one that finds everything made."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, timed, upper_bound
from benchmarks.table import Bench, Row

RERUNS = 5


def demo(quick: bool) -> list[Figure]:
    """What `make demo` does after the install, in an empty store with an empty cache."""
    seeds, reruns = (("0",), 1) if quick else (("0", "1", "2"), RERUNS)
    busy, before = os.getloadavg()[0], cpu_minutes()
    with tempfile.TemporaryDirectory() as folder:
        first = timed(lambda: run_demo(Path(folder), seeds))[1]
        used = cpu_minutes() - before
        again = np.array([timed(lambda: run_demo(Path(folder), seeds))[1] for _ in range(reruns)])
    how = {"clock": "wall", "seeds": len(seeds), "jobs": 2, "cores": os.cpu_count()}
    how["load_of_other_jobs"] = round(busy, 1)
    return [
        Figure(first / 60, configuration=how | {"cpu_minutes": round(used, 2)}),
        Figure(float(np.median(again)), upper_bound(again), configuration=how | {"reruns": reruns}),
    ]


def cpu_minutes() -> float:
    """What all processes started from here have taken so far, other jobs' share of time apart."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (spent.ru_utime + spent.ru_stime) / 60


def run_demo(folder: Path, seeds: tuple[str, ...]) -> None:
    """The command in a process of its own, as a newcomer starts it."""
    command = [sys.executable, "-m", "workbench.cli", "demo", "--store", str(folder / "runs")]
    usual = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    made = subprocess.run(
        [*command, "--jobs", "2", "--seeds", *seeds],
        env=usual | {"WORKBENCH_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"`workbench demo` failed:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")


BENCHES = (
    Bench(
        (
            Row(
                "demo_minutes",
                "`make demo` after the install: three seeds, three arms, empty cache",
                goal=5,
                unit="min",
            ),
            Row("demo_rerun_seconds", "a second `make demo`", goal=20, unit="s"),
        ),
        demo,
        on_request=True,
    ),
)
