"""Two processes that share a batch train as one process does that has all of it."""

import os
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing

from tests import tiny
from tests.test_defences import streams
from tests.two_processes import spawned
from workbench.defences.t_vaccine import TVaccine
from workbench.defences.vaccine import Vaccine
from workbench.optimisation import Fit

pytestmark = pytest.mark.slow

# Plain gradient descent: Adam's first steps are signs, which rounding flips. Weight decay would
# shrink weights that have a gradient of zero instead of none.
FIT = Fit(steps=2, lr=0.05, batch_size=4, warmup=0, optimiser="sgd", weight_decay=0.1)
METHODS = {
    "batch": Vaccine(rho=1.0, fit=FIT),
    "layer": Vaccine(rho=1.0, norm_scope="layer", fit=FIT),
    "sample": Vaccine(rho=1.0, norm_scope="sample", fit=FIT),
    "strict": TVaccine(rho=1.0, active=1, resample_every=1, fit=FIT),
    "official": TVaccine(
        rho=1.0, active=1, resample_every=1, freeze_policy="official", score_rows=2, fit=FIT
    ),
}


def train(method):
    return method.immunise(model(), streams(method.streams), seed=3).state_dict()


def model():
    return tiny.llama(num_hidden_layers=3)


def alone(squares, batch, context):
    """A norm that every process takes over its own rows."""
    return 1.0, squares


def worker(rank, port, folder):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    for name, method in METHODS.items():
        torch.save(train(method), f"{folder}/{name}.{rank}")
    with patch("workbench.defences.vaccine._over_processes", alone):
        torch.save(train(METHODS["batch"]), f"{folder}/alone.{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Weights by method and process."""
    folder = spawned(worker, tmp_path_factory.mktemp("processes"))
    return {
        name: [torch.load(folder / f"{name}.{rank}") for rank in (0, 1)]
        for name in (*METHODS, "alone")
    }


def difference(a, b):
    """Largest difference of two sets of weights, in units of the largest step from the start."""
    start = model().state_dict()
    step = max((b[k] - start[k]).abs().max() for k in start)
    return float(max((a[k] - b[k]).abs().max() for k in start) / step)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one(together, name):
    first, second = together[name]
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert difference(first, train(METHODS[name])) < 1e-4


def test_the_rows_of_the_two_are_unequal():
    """Otherwise a norm could be right by luck."""
    batch = streams(["align"])["align"].batch(0)
    halves = [batch.rows(range(i, i + 2)).response_mask.sum() for i in (0, 2)]
    assert halves[0] != halves[1]


def test_the_comparison_would_notice_a_norm_of_one_process(together):
    assert difference(together["alone"][0], train(METHODS["batch"])) > 1e-2


def test_blocks_that_are_not_drawn_do_not_decay(together):
    """Two of three blocks at least stay as they were, for a step has one active block."""
    method = METHODS["strict"]
    start, (first, _) = model().state_dict(), together["strict"]
    moved = {k for k in start if not torch.equal(first[k], start[k])}
    assert len({k.split(".")[2] for k in moved}) <= method.steps
    assert all(".layers." in k for k in moved)
