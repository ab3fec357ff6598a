"""The dashboard runs callbacks in threads that share one model."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from tests import tiny
from tests.activations.models import batch, hook_count
from workbench.activations import HookedLM

THREADS, ROUNDS = 6, 15
NAME = "blocks.0.hook_resid_post"


def test_each_thread_sees_its_own_contexts_only():
    lm = HookedLM(tiny.llama())
    with torch.no_grad(), lm.record("resid_post") as clean:
        expected = lm(batch()).logits
    start = Barrier(THREADS)

    def work(k: int) -> None:
        shift = float(k)
        start.wait()
        for _ in range(ROUNDS):
            with torch.no_grad(), lm.record("resid_post", "resid_pre.1") as acts:
                with lm.intervene({"resid_post.0": lambda x, name: x + shift}):
                    lm(batch())
                assert torch.equal(acts[NAME], clean[NAME] + shift)
                assert set(acts.counts.values()) == {1}
            with torch.no_grad():
                assert torch.equal(lm(batch()).logits, expected)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(work, k) for k in range(THREADS)]:
            future.result()
    assert hook_count(lm.model) == 0


def test_context_of_one_thread_is_closed_to_the_next():
    lm = HookedLM(tiny.llama())
    with torch.no_grad(), lm.record("resid_post") as acts, ThreadPoolExecutor(1) as pool:
        pool.submit(lm, batch()).result()
        assert not acts.counts
        lm(batch())
    assert set(acts.counts.values()) == {1}


def test_hooks_come_and_go_while_other_threads_run_the_model():
    """Torch's hook tables change under a running forward pass; nothing may break or leak."""
    lm = HookedLM(tiny.gpt2())
    with torch.no_grad():
        expected = lm(batch()).logits

    def plain(_: int) -> None:
        with torch.no_grad():
            for _ in range(ROUNDS):
                assert torch.equal(lm(batch()).logits, expected)

    def hooked(_: int) -> None:
        with torch.no_grad():
            for _ in range(ROUNDS):
                with lm.record("*"):
                    lm(batch())

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = [pool.submit(plain if k % 2 else hooked, k) for k in range(THREADS)]
        for job in jobs:
            job.result()
    assert hook_count(lm.model) == 0
