"""The released circuit breakers' loss, to fp32's precision (numbers: tests/golden)."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests.golden.make_circuit_breakers import ALPHA, FILE, STATES, STEPS, TIMES, batch, model
from workbench.activations import HookedLM
from workbench.defences.circuit_breakers import CircuitBreakers
from workbench.training import Context

CASES = json.loads(FILE.read_text())
METHOD = CircuitBreakers(
    alpha=ALPHA,
    layers=tuple(i - 1 for i in STATES),  # what hidden_states[i] holds is block i - 1's output
    retain_mask="official",
    truncate=False,
    tie_break=0.0,
    lora_rank=2,
)


def loss(case, method=METHOD):
    lm = HookedLM(model(case["moved"]).train())
    batches = {name: batch(name, case["side"]) for name in method.streams}
    context = Context(case["t"] - 1, STEPS, torch.Generator(), Accelerator())
    return sum(float(value) for value in method.backward(lm, batches, context).values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_released_loss(case):
    assert loss(case) == pytest.approx(case["loss"], rel=1e-5)


def test_the_cases_can_tell_variants_apart():
    """Otherwise agreement would say little: each reading differs from the released numbers."""
    assert {c["t"] for c in CASES} == set(TIMES)
    moved = [c for c in CASES if c["moved"]]
    for other in (
        {"layers": STATES},
        {"retain_mask": "tokens"},
        {"truncate": True},
        {"distance": "relative"},
    ):
        method = replace(METHOD, **other)
        assert all(loss(c, method) != pytest.approx(c["loss"], rel=1e-3) for c in moved), other
