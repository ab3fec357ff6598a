"""Vaccine and T-Vaccine give the numbers of the authors' released code.

The numbers were made by `tests/golden/make_vaccine.py` from a checkout of that code.
"""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests.golden.make_vaccine import ENTRIES, HERE, LAYERS, batch, model
from workbench.activations import HookedLM
from workbench.defences.t_vaccine import TVaccine
from workbench.defences.vaccine import Vaccine
from workbench.losses import cross_entropy
from workbench.training import Context

TOLERANCE = 1e-5  # losses and norms are taken in float32, there as here


def golden(name):
    return json.loads((HERE / f"{name}.json").read_text())


@pytest.fixture
def lm():
    return HookedLM(model())


def context(**memory):
    return Context(1, 10, torch.Generator().manual_seed(0), Accelerator(), None, memory)


def check_drift(drift, expected):
    """Norms and some entries of ε, layer by layer."""
    names = {i: f"blocks.{i}.hook_attn_module_out" for i in expected["drift_norm"]}
    assert list(drift) == list(names.values())
    for i, name in names.items():
        assert drift[name].norm().item() == pytest.approx(expected["drift_norm"][i], rel=TOLERANCE)
        found = [drift[name][at].item() for at in ENTRIES]
        assert found == pytest.approx(expected["drift_entries"][i], rel=1e-4, abs=1e-7)


def gradient_norms(lm):
    return {n: p.grad.norm().item() for n, p in lm.model.named_parameters() if p.grad is not None}


def test_vaccine(lm):
    expected, vaccine = golden("vaccine"), Vaccine(rho=golden("vaccine")["rho"])
    assert cross_entropy(lm(batch(1)).logits, batch(1)).item() == pytest.approx(
        expected["clean_loss"], rel=TOLERANCE
    )
    check_drift(vaccine.worst_drift(lm, batch(1)), expected)
    loss = vaccine.backward(lm, {"align": batch(1)}, context())["align"]
    assert loss.item() == pytest.approx(expected["perturbed_loss"], rel=TOLERANCE)
    assert gradient_norms(lm) == pytest.approx(expected["gradient_norm"], rel=1e-4)


def test_t_vaccine_scores(lm):
    p = TVaccine(active=2).probability(lm, batch(2).rows([0]), context())
    assert p.tolist() == pytest.approx(golden("t_vaccine")["probability"], rel=TOLERANCE)


def test_t_vaccine_step(lm):
    expected = golden("t_vaccine")
    layers = expected["active"]
    assert len(layers) == 2 < LAYERS
    method = TVaccine(rho=expected["rho"], active=2, freeze_policy="strict")
    check_drift(Vaccine(rho=method.rho, layers=tuple(layers)).worst_drift(lm, batch(1)), expected)
    given = context(active=[float(i) for i in layers])
    loss = method.backward(lm, {"align": batch(1)}, given)["align"]
    assert loss.item() == pytest.approx(expected["perturbed_loss"], rel=TOLERANCE)
    found, prefixes = gradient_norms(lm), tuple(f"model.layers.{i}." for i in layers)
    active = {n: x for n, x in expected["gradient_norm"].items() if n.startswith(prefixes)}
    assert found == pytest.approx(active, rel=1e-4)


def test_the_numbers_tell_one_method_from_another(lm):
    """A norm a layer, or over all layers, is far from what was released."""
    expected = golden("t_vaccine")
    vaccine = Vaccine(rho=expected["rho"], layers=tuple(expected["active"]))
    for other in (replace(vaccine, norm_scope="layer"), replace(vaccine, layers=None)):
        with pytest.raises(AssertionError):
            check_drift(
                {
                    n: e
                    for n, e in other.worst_drift(lm, batch(1)).items()
                    if int(n.split(".")[1]) in expected["active"]
                },
                expected,
            )
