"""The released variant against numbers of the released code (tests/golden/make_rep_noise.py)."""

import json

import pytest
import torch
from accelerate import Accelerator

from tests.golden import make_rep_noise as golden
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences._answers import by_difference
from workbench.defences.rep_noise import RepNoise
from workbench.discrepancy import mmd
from workbench.readout import read_out
from workbench.training import Context

FOUND = json.loads(golden.GOLDEN.read_text())


def batch(answers, pad):
    """As our streams make them: each stream is as wide as its own longest row."""
    rows = [(p, a) for p, a in zip(golden.PROMPTS, answers, strict=True)]
    width = max(len(p) + len(a) for p, a in rows)
    ids = torch.full((len(rows), width), pad)
    real, response = (torch.zeros_like(ids, dtype=torch.bool) for _ in range(2))
    for i, (p, a) in enumerate(rows):
        ids[i, : len(p) + len(a)] = torch.tensor(p + a)
        real[i, : len(p) + len(a)] = True
        response[i, len(p) : len(p) + len(a)] = True
    return Batch(ids, real, response, tuple("abcd"))


@pytest.mark.parametrize("pad", [0, 94])
@pytest.mark.parametrize("case", golden.WEIGHTS)
def test_loss_and_gradients_are_those_of_the_released_code(case, pad):
    alpha, beta = golden.WEIGHTS[case]
    model = golden.model(pad)
    method = RepNoise(alpha=alpha, beta=beta, variant="released")
    batches = {"harmful": batch(golden.HARMFUL, pad), "refusal": batch(golden.REFUSAL, pad)}
    context = Context(0, 1, torch.Generator().manual_seed(golden.SEED), Accelerator())
    loss = sum(method.loss(HookedLM(model), batches, context).values())
    expected = FOUND[f"{case}, padding {pad}"]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    loss.backward()
    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("pad", [0, 94])
def test_masked_cross_entropy_is_that_of_the_released_code(pad):
    lm, (ids, real) = HookedLM(golden.model(pad)), golden.padded(golden.HARMFUL, pad)
    differ = ids != golden.padded(golden.REFUSAL, pad)[0]
    answers = by_difference(Batch(ids, real.bool(), real.bool(), tuple("abcd")), differ)
    found = answers.loss(read_out(lm), answers.final(lm))
    assert found.item() == pytest.approx(FOUND[f"masked cross-entropy, padding {pad}"], rel=1e-9)


def test_discrepancy_is_that_of_the_released_code():
    x, y = golden.samples()
    assert mmd(x, 1.5 * y + 0.3).item() == pytest.approx(FOUND["mmd"], rel=1e-12)
