"""Probes: closed forms, negative controls, and what they must not depend on."""

import math
import re
import sys

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.nn import functional as F

from tests import tiny
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.errors import UnknownNameError
from workbench.probes import PROBES, WRITES, At, embedding_drift, token_kl
from workbench.probes.token_kl import budget_share

FAMILIES = ["llama", "gpt2", "qwen3", "gemma3"]
TEXTS = [Example(str(i), f"say {i} " * (i + 1), "word " * (4 - i)) for i in range(4)]
AT = At("attack", 3, "released", "hazard")


def batch(side="right", texts=TEXTS):
    return encode(tiny.tokenizer(), texts, side=side)


@pytest.fixture(params=FAMILIES)
def pair(request):
    make = getattr(tiny, request.param)
    return make(seed=0).eval(), make(seed=1).eval()


@pytest.mark.parametrize("name", PROBES)
def test_a_model_against_itself_shows_nothing(name, pair):
    for row in PROBES[name](pair[0], pair[0], batch(), AT):
        assert row.values == [0.0] * len(row.values)


@pytest.mark.parametrize("name", PROBES)
def test_rows_are_of_the_declared_kind_and_say_where_they_were_measured(name, pair):
    rows = PROBES[name](*pair, batch(), AT)
    assert {type(r) for r in rows} == {WRITES[name]}
    assert {(r.stage, r.step, r.reference, r.group) for r in rows} == {
        ("attack", 3, "released", "hazard")
    }
    assert {r.example for r in rows} == {x.id for x in TEXTS}
    assert re.search(r"arXiv:\d{4}\.\d{5}", sys.modules[PROBES[name].__module__].__doc__)


@pytest.mark.parametrize("name", PROBES)
def test_padding_and_other_rows_do_not_matter(name, pair):
    together = {
        (r.example, getattr(r, "measure", "")): r.values for r in PROBES[name](*pair, batch(), AT)
    }
    for side, texts in (("left", TEXTS), ("right", TEXTS[::-1]), ("right", TEXTS[1:2])):
        for r in PROBES[name](*pair, batch(side, texts), AT):
            assert r.values == pytest.approx(
                together[r.example, getattr(r, "measure", "")], abs=2e-4
            )


@pytest.mark.parametrize("name", PROBES)
def test_models_are_left_in_their_mode_without_hooks(name, pair):
    pair[0].train()
    PROBES[name](*pair, batch(), AT)
    assert pair[0].training and not pair[1].training
    assert not any(m._forward_hooks for p in pair for m in p.modules())


def test_kl_equals_torch_kl_div_token_by_token(pair):
    rows = token_kl(*pair, batch(), AT)
    for i, (row, text) in enumerate(zip(rows, TEXTS, strict=True)):
        one = batch(texts=[text])
        p, q = (HookedLM(m)(one).logits[0, :-1].double().log_softmax(-1) for m in pair)
        expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)[one.scored[0]]
        assert row.example == str(i)
        assert row.values == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)


def test_reverse_is_the_forward_of_swapped_models(pair):
    a = token_kl(*pair, batch(), AT, "reverse_kl")
    b = token_kl(*reversed(pair), batch(), AT)
    assert [r.values for r in a] == [r.values for r in b]


def test_kl_is_never_negative_and_obeys_pinsker(pair):
    one = batch()
    values = [v for r in token_kl(*pair, one, AT) for v in r.values]
    p, q = (HookedLM(m)(one).logits[:, :-1][one.scored].softmax(-1) for m in pair)
    distance = 0.5 * (p - q).abs().sum(-1)
    for kl, tv in zip(values, distance.tolist(), strict=True):
        assert kl >= -1e-6 and tv <= math.sqrt(max(kl, 0) / 2) + 1e-5


def test_a_constant_added_to_the_logits_changes_nothing():
    model, shifted = tiny.gpt2().eval(), tiny.gpt2().eval()
    shifted.lm_head = torch.nn.Linear(32, tiny.VOCABULARY)
    with torch.no_grad():
        shifted.lm_head.weight.copy_(model.lm_head.weight)
        shifted.lm_head.bias.fill_(3.0)
    values = [v for r in token_kl(model, shifted, batch(), AT) for v in r.values]
    assert max(map(abs, values)) < 1e-4


def test_budget_share():
    assert budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 1) == pytest.approx(0.8)
    assert budget_share([[1.0, 1.0]], 2) == 1.0
    assert math.isnan(budget_share([[0.0]], 1))


def test_drift_equals_the_obvious_computation(pair):
    text = TEXTS[2]
    rows = {r.measure: r for r in embedding_drift(*pair, batch(texts=[text]), AT, positions="all")}
    one = batch(texts=[text])
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
    for row in embedding_drift(adapted, plain, batch(), AT):
        assert row.values == [0.0] * len(row.values)


def test_scaling_the_shift_scales_the_drift():
    """Where the path from weights to stream is linear, drift of θ + 2Δ is twice that of θ + Δ."""
    plain, once, twice = (tiny.llama().eval() for _ in range(3))
    for model, factor in ((once, 1.0), (twice, 2.0)):
        with torch.no_grad():
            model.model.layers[-1].mlp.down_proj.weight.add_(0.01 * factor)
    a, b = (embedding_drift(m, plain, batch(), AT) for m in (once, twice))
    for x, y in zip(a, b, strict=True):
        if x.measure == "l2":
            assert x.values[:-1] == [0.0] * (len(x.values) - 1)
            assert y.values[-1] == pytest.approx(2 * x.values[-1], rel=1e-3)


def test_unknown_positions_are_refused(pair):
    with pytest.raises((UnknownNameError, TypeCheckError), match="last_prompt"):
        embedding_drift(*pair, batch(), AT, positions="last_promt")
