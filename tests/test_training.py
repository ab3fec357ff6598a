"""The shared loop: accumulation, schedules, randomness, resuming, refusing what is not finite."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from tests import tiny
from workbench.activations import HookedLM
from workbench.data import Example, Stream
from workbench.errors import InvalidValueError, RunError, TrainingError
from workbench.losses import cross_entropy
from workbench.optimisation import OPTIMISERS, Fit
from workbench.resume import Checkpoint
from workbench.training import Mean, fit, flops_per_token, train

FIT = Fit(steps=6, lr=1e-2, batch_size=4, warmup=2)


def stream(n=10, batch_size=4, seed=0):
    texts = [Example(str(i), f"say {i}", "word " * (i % 5 + 1)) for i in range(n)]
    return {"align": Stream("align", texts, tiny.tokenizer(), batch_size, seed)}


def objective(model):
    lm = HookedLM(model, check=False)

    def loss(part):
        return {"align": cross_entropy(lm(part["align"]).logits, part["align"])}

    return lambda batches, context: context.minimise(loss, batches, {"align": Mean("align")})


def trained(config=FIT, seed=0, model=None, checkpoint=None, **kw):
    model = model or tiny.llama()
    history = fit(model, stream(**kw), objective(model), config, seed=seed, checkpoint=checkpoint)
    return model, history


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loss_falls_and_the_history_says_what_it_cost():
    _, history = trained(Fit(steps=30, lr=1e-2, batch_size=4))
    assert history[-1].losses["align"] < 0.5 * history[0].losses["align"]
    assert [s.step for s in history] == list(range(1, 31))
    assert history[-1].spent.samples == 120
    tokens = sum(stream()["align"].batch(i).tokens for i in range(30))
    assert history[-1].spent.tokens == tokens
    assert history[-1].spent.flops == pytest.approx(tokens * flops_per_token(tiny.llama()))


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_equals_the_whole_batch(micro_batch):
    whole, a = trained()
    parts, b = trained(replace(FIT, micro_batch=micro_batch))
    assert a[0].losses["align"] == pytest.approx(b[0].losses["align"], rel=1e-5)
    assert a[0].grad_norm == pytest.approx(b[0].grad_norm, rel=1e-4)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-2, atol=2e-3)


def test_gradients_of_micro_batches_add_up_exactly():
    grads = []
    for size in (None, 1):
        model = tiny.llama().double()
        steps = train(model, stream(), objective(model), replace(FIT, micro_batch=size, clip=None))
        grads.append(next(steps).grad_norm)
    assert grads[0] == pytest.approx(grads[1], rel=1e-5)  # the loss itself is fp32


def test_same_seed_same_numbers_and_measuring_in_between_changes_nothing():
    a, _ = trained(seed=3, model=dropout_model())
    model = dropout_model()
    for _ in train(model, stream(), objective(model), FIT, seed=3):
        torch.manual_seed(99)
        torch.rand(7)
    assert torch.equal(weights(a), weights(model))
    b, _ = trained(seed=4, model=dropout_model())
    assert not torch.equal(weights(a), weights(b))


def dropout_model():
    model = tiny.gpt2()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return model


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(model=dropout_model())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_takes_steps(name):
    model, history = trained(replace(FIT, optimiser=name, lr=1e-3))
    assert not torch.equal(weights(model), weights(tiny.llama()))
    assert all(s.grad_norm > 0 for s in history)


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.024471741852423234)]
)
def test_schedules_run_by_optimiser_step(schedule, last):
    config = Fit(steps=10, lr=1.0, warmup=4, schedule=schedule)
    assert config.lr_at(0) == 0.25
    assert config.lr_at(3) == pytest.approx(
        Fit(steps=10, lr=1.0, warmup=0, schedule=schedule).lr_at(3)
    )
    assert config.lr_at(9) == pytest.approx(last)


def test_clipping_bounds_the_step():
    free, _ = trained(
        replace(FIT, steps=1, optimiser="sgd", clip=None, schedule="constant", warmup=0)
    )
    tight, h = trained(
        replace(FIT, steps=1, optimiser="sgd", clip=0.1, schedule="constant", warmup=0)
    )
    start = weights(tiny.llama())
    assert (weights(tight) - start).norm().item() == pytest.approx(FIT.lr * 0.1, rel=1e-2)
    assert (weights(free) - start).norm().item() == pytest.approx(FIT.lr * h[0].grad_norm, rel=1e-3)


def test_bf16_autocast_trains_fp32_weights():
    model, history = trained(replace(FIT, precision="bf16"))
    assert model.dtype == torch.float32
    assert history[0].losses["align"] == pytest.approx(trained()[1][0].losses["align"], rel=0.05)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "adagrad"])
def test_resuming_ends_in_the_same_weights(tmp_path, optimiser):
    config = replace(FIT, optimiser=optimiser, lr=1e-3)
    straight, expected = trained(config, model=dropout_model())
    where = Checkpoint(tmp_path / "c", "run", every=2)
    model = dropout_model()
    for step in train(model, stream(), objective(model), config, checkpoint=where):
        if step.step == 5:
            break  # as a kill would: steps 1-4 are saved, step 5 is lost
    again, history = trained(config, model=dropout_model(), checkpoint=where)
    assert torch.equal(weights(straight), weights(again))
    assert [s.losses for s in history] == [s.losses for s in expected]
    assert [s.restored for s in history] == [True] * 4 + [False] * 2


def test_a_finished_checkpoint_is_not_trained_again(tmp_path):
    where = Checkpoint(tmp_path / "c", "run", every=100)
    a, _ = trained(checkpoint=where)
    b, history = trained(checkpoint=where)
    assert all(s.restored for s in history)
    assert torch.equal(weights(a), weights(b))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trained(checkpoint=Checkpoint(tmp_path / "c", "one"))
    with pytest.raises(RunError, match="belongs to another run"):
        trained(checkpoint=Checkpoint(tmp_path / "c", "two"))


KILLED = """
import sys, torch
torch.set_num_threads(1)
from tests.test_training import *
where = Checkpoint(__import__("pathlib").Path(sys.argv[1]), "run", every=1)
print("ready", flush=True)
trained(Fit(steps=400, lr=1e-3, batch_size=4), checkpoint=where)
"""


@pytest.mark.slow
def test_killed_anywhere_it_ends_in_the_same_weights(tmp_path):
    config = Fit(steps=400, lr=1e-3, batch_size=4)
    expected, _ = trained(config)
    where = tmp_path / "c"
    for wait in (0.15, 0.4, 0.3, 0.22):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(where)], stdout=subprocess.PIPE, cwd=os.getcwd()
        )
        child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    model, history = trained(config, checkpoint=Checkpoint(where, "run", every=1))
    assert history[0].restored and not history[-1].restored
    assert torch.equal(weights(expected), weights(model))


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_term():
    model = tiny.llama()
    good = objective(model)

    def poisoned(batches, context):
        losses = good(batches, context)
        return losses | {"extra": torch.tensor(float("nan"))} if context.step == 2 else losses

    steps = train(model, stream(), poisoned, FIT)
    next(steps), next(steps)
    before = weights(model)
    with pytest.raises(TrainingError, match=r"step 3: extra is nan.*weights are those of step 2"):
        next(steps)
    assert torch.equal(before, weights(model))


def test_a_gradient_that_is_not_finite_stops_too():
    model = tiny.llama()
    good = objective(model)

    def poisoned(batches, context):
        losses = good(batches, context)
        next(model.parameters()).grad[0] = float("inf")
        return losses

    with pytest.raises(TrainingError, match="gradient norm"):
        next(train(model, stream(), poisoned, FIT))


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"lr": 0.0}, {"batch_size": 0}, {"micro_batch": 0}, {"clip": 0.0},
            {"optimiser": "lion"}, {"schedule": "wavy"}, {"warmup": -1}, {"weight_decay": -1.0}],
)  # fmt: skip
def test_impossible_settings_are_refused_at_the_door(bad):
    # For a Literal the type checker that tests run under speaks first.
    with pytest.raises((InvalidValueError, TypeCheckError), match=next(iter(bad))):
        Fit(**bad)


def test_a_frozen_model_is_refused():
    model = tiny.llama().requires_grad_(False)
    with pytest.raises(InvalidValueError, match="nothing to train"):
        next(train(model, stream(), objective(model), FIT))


def test_what_a_method_remembers_survives_a_checkpoint(tmp_path):
    """Interrupted after a save, the method goes on with what it had kept by then."""

    def remembering(model, seen):
        lm = HookedLM(model, check=False)

        def objective(batches, context):
            context.memory["steps"] = [*context.memory.get("steps", []), float(context.step)]
            seen.append(list(context.memory["steps"]))
            return context.minimise(
                lambda part: {"align": cross_entropy(lm(part["align"]).logits, part["align"])},
                batches,
                {"align": Mean("align")},
            )

        return objective

    seen: list[list[float]] = []
    model, keep = tiny.llama(), Checkpoint(tmp_path / "checkpoint", "x", every=2)
    steps = train(model, stream(), remembering(model, seen), FIT, checkpoint=keep)
    for _ in range(3):
        next(steps)
    again = tiny.llama()
    seen.clear()
    fit(again, stream(), remembering(again, seen), FIT, checkpoint=keep)
    assert seen[0] == [0.0, 1.0, 2.0]
    assert seen[-1] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
