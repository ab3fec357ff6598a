"""Jobs in worker processes: results, errors, and workers that die."""

import os
import signal

import pytest

from workbench.errors import InvalidValueError
from workbench.parallel import ATTEMPTS, Job, run_jobs


def double(x):
    return 2 * x


def fail():
    raise ValueError("no good")


def threads():
    import torch

    return torch.get_num_threads()


def die_until(path, times, log):
    """Kill this worker the first `times` times it is asked."""
    with open(log, "a") as f:
        f.write("x")
    count = os.path.getsize(path) if os.path.exists(path) else 0
    if count < times:
        with open(path, "a") as f:
            f.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def run(jobs, workers=2, under_way=list):
    seen = []
    done = run_jobs(jobs, workers, seen.append, under_way)
    assert seen == done
    return {d.job.name: d for d in done}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_reported_once(workers):
    done = run([Job(str(i), double, (i,)) for i in range(5)], workers)
    assert {name: d.result for name, d in done.items()} == {str(i): 2 * i for i in range(5)}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_its_own_job(workers):
    done = run([Job("bad", fail), Job("good", double, (1,))], workers)
    assert done["bad"].error == "ValueError: no good"
    assert done["good"].result == 2 and done["good"].error is None


def test_workers_use_one_thread():
    assert run([Job("a", threads), Job("b", threads)])["a"].result == 1


def test_a_worker_that_dies_once_is_replaced(tmp_path):
    marks, log = str(tmp_path / "deaths"), str(tmp_path / "log")
    jobs = [
        Job("unlucky", die_until, (marks, 1, log)),
        *(Job(str(i), double, (i,)) for i in range(3)),
    ]
    done = run(jobs, under_way=lambda: ["unlucky"])
    assert done["unlucky"].result == "survived"
    assert all(done[str(i)].result == 2 * i for i in range(3))


def test_a_worker_that_always_dies_is_given_up_and_named(tmp_path):
    marks, log = str(tmp_path / "deaths"), tmp_path / "log"
    jobs = [Job("cursed", die_until, (marks, 99, str(log))), Job("fine", double, (4,))]
    done = run(jobs, under_way=lambda: ["cursed"])
    assert f"died {ATTEMPTS} times" in done["cursed"].error
    assert len(log.read_text()) == ATTEMPTS
    assert done["fine"].result == 8


def test_a_death_nobody_saw_coming_still_ends(tmp_path):
    jobs = [Job("quiet", die_until, (str(tmp_path / "d"), 1, str(tmp_path / "l")))]
    assert run(jobs)["quiet"].result == "survived"


@pytest.mark.parametrize("workers", [-1, 0])
@pytest.mark.timeout(20)
def test_fewer_than_one_worker_is_refused(workers):
    with pytest.raises(InvalidValueError, match=f"must be at least 1, not {workers}"):
        run_jobs([Job("a", double, (1,))], workers, lambda done: None, list)
