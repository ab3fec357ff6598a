"""Drift: closed forms, and what must show nothing."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.nn import functional as F

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import UnknownNameError
from workbench.probes import Drift


@pytest.fixture(params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


def test_a_model_against_itself_has_not_moved(pair):
    for row in rows_of(Drift(), pair[0], pair[0]):
        assert row.values == [0.0] * len(row.values)


def test_drift_equals_the_obvious_computation(pair):
    found = rows_of(Drift(sites=("resid_post",), positions="all"), *pair)
    one = panel().batch("hazard").rows([2])
    rows = {r.measure: r for r in found if r.example == one.examples[0]}
    now, then = (HookedLM(m) for m in pair)
    with now.record("resid_post") as a:
        now(one)
    with then.record("resid_post") as b:
        then(one)
    for layer, name in enumerate(now.resolve("resid_post")):
        x, y = a[name][0].double(), b[name][0].double()
        l2 = [(s - t).norm().item() for s, t in zip(x, y, strict=True)]
        relative = [d / t.norm().item() for d, t in zip(l2, y, strict=True)]
        cosine = [1 - F.cosine_similarity(s, t, dim=0).item() for s, t in zip(x, y, strict=True)]
        assert rows["l2"].values[layer] == pytest.approx(sum(l2) / len(l2), rel=1e-3)
        assert rows["relative_l2"].values[layer] == pytest.approx(sum(relative) / len(l2), rel=1e-3)
        assert rows["cosine_distance"].values[layer] == pytest.approx(
            sum(cosine) / len(l2), rel=1e-3
        )


def test_an_adapter_that_does_nothing_has_no_drift():
    from workbench.adapters import with_lora

    plain = tiny.llama().eval()
    adapted = with_lora(tiny.llama(), rank=2, alpha=4.0).eval()
    for row in rows_of(Drift(), adapted, plain):
        assert row.values == [0.0] * len(row.values)


def test_scaling_the_shift_scales_the_drift():
    """Where the path from weights to stream is linear, drift of θ + 2Δ is twice that of θ + Δ."""
    plain, once, twice = (tiny.llama().eval() for _ in range(3))
    for model, factor in ((once, 1.0), (twice, 2.0)):
        with torch.no_grad():
            model.model.layers[-1].mlp.down_proj.weight.add_(0.01 * factor)
    a, b = (rows_of(Drift(sites=("resid_post",)), m, plain) for m in (once, twice))
    for x, y in zip(a, b, strict=True):
        if x.measure == "l2":
            assert x.values[:-1] == [0.0] * (len(x.values) - 1)
            assert y.values[-1] == pytest.approx(2 * x.values[-1], rel=1e-3)


def test_unknown_positions_are_refused(pair):
    with pytest.raises((UnknownNameError, TypeCheckError), match="last_prompt"):
        rows_of(Drift(positions="last_promt"), *pair)
