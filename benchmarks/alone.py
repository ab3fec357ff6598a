"""A measurement in a new process: libraries patch torch when imported, and memory is fresh."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import Figure
from benchmarks.table import Bench

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    # glibc gives memory back to the system, and faults it in anew, by thresholds that depend on
    # what a process has freed before: the same pass takes up to 20 % longer. Hold them fixed.
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}


def alone(bench: Bench, quick: bool) -> list[Figure]:
    """The figures of a bench, measured in a process of its own."""
    os.environ |= SETTINGS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, bench, quick).result()


def _measured(bench: Bench, quick: bool) -> list[Figure]:
    import torch

    torch.set_num_threads(1)
    return list(bench.measure(quick))
