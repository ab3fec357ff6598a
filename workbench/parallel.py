"""Independent jobs in worker processes, one thread each; a worker that dies is replaced.

joblib with its `loky` backend. When a worker dies (killed, out of memory, segmentation fault) the
pool falls with it and cannot say whose fault it was. So the jobs that were under way are then run
one at a time, each alone in a fresh worker: a death now names its job, and a job is tried
`ATTEMPTS` times before it is given up.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from workbench.errors import InvalidValueError

ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """Something to do in another process: a function that can be sent there, and its arguments."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Done:
    """What became of a job: its result, or why there is none."""

    job: Job
    result: Any = None
    error: str | None = None


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    report: Callable[[Done], None],
    under_way: Callable[[], Iterable[str]],
) -> list[Done]:
    """Do all jobs, reporting each as it ends; returns them in the order they ended.

    Args:
        jobs: what to do; their names are unique.
        workers: processes at a time; 1 works in this process.
        report: called in this process after every job.
        under_way: names of the jobs that had begun and not ended, asked after a worker died.

    Raises:
        InvalidValueError: fewer than one process.
    """
    if workers < 1:
        raise InvalidValueError(f"workers must be at least 1, not {workers}.")
    done: list[Done] = []

    def finish(end: Done) -> None:
        done.append(end)
        report(end)

    left = {job.name: job for job in jobs}
    while left:
        try:
            for name, result, error in _pool(list(left.values()), workers):
                finish(Done(left.pop(name), result, error))
        except TerminatedWorkerError as death:
            suspects = [left.pop(name) for name in under_way() if name in left]
            if not suspects:
                suspects = [left.pop(next(iter(left)))]
            for job in suspects:
                finish(_alone(job, str(death)))
    return done


def threads() -> int:
    """Threads a process may use: one, unless OMP_NUM_THREADS says otherwise."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def _alone(job: Job, why: str) -> Done:
    """One job in a worker of its own; the attempt in the fallen pool counts as the first."""
    for _ in range(ATTEMPTS - 1):
        try:
            _, result, error = next(iter(_pool([job], 1, own_process=True)))
            return Done(job, result, error)
        except TerminatedWorkerError as death:
            why = str(death)
    reason = " ".join(why.split())
    return Done(job, error=f"its worker process died {ATTEMPTS} times ({reason:.200})")


def _pool(
    jobs: Sequence[Job], workers: int, *, own_process: bool = False
) -> Iterable[tuple[str, Any, str | None]]:
    if workers == 1 and not own_process:
        return map(_attempt, jobs)
    processes = min(workers, len(jobs))
    with parallel_config("loky", n_jobs=max(processes, 2), inner_max_num_threads=threads()):
        return Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=processes)(
            delayed(_attempt)(job) for job in jobs
        )


def _attempt(job: Job) -> tuple[str, Any, str | None]:
    """Do one job. An error ends this job alone; the others go on."""
    import torch

    torch.set_num_threads(threads())
    try:
        return job.name, job.work(*job.arguments), None
    except Exception as error:
        return job.name, None, f"{type(error).__name__}: {error}"
