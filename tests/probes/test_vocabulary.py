"""KL by response position: closed forms and invariants."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.probes import VocabularyPass
from workbench.probes.vocabulary import budget_share


@pytest.fixture(params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


def forward_kl(model, reference):
    return [r for r in rows_of(VocabularyPass(), model, reference)
            if getattr(r, "measure", "") == "forward_kl"]  # fmt: skip


def test_a_model_against_itself_does_not_diverge(pair):
    for row in forward_kl(pair[0], pair[0]):
        assert row.values == [0.0] * len(row.values)


def test_kl_equals_torch_kl_div_token_by_token(pair):
    for row in forward_kl(*pair):
        batch = panel().batch(row.group)
        one = batch.rows([batch.examples.index(row.example)])
        p, q = (HookedLM(m)(one).logits[0, :-1].double().log_softmax(-1) for m in pair)
        expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)[one.scored[0]]
        assert row.values == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)


def test_kl_is_never_negative_and_obeys_pinsker(pair):
    rows = [r for r in forward_kl(*pair) if r.group == "hazard"]
    values = [v for r in rows for v in r.values]
    one = panel().batch("hazard")
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
    values = [v for r in forward_kl(model, shifted) for v in r.values]
    assert max(map(abs, values)) < 1e-4


def test_budget_share():
    assert budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 1) == pytest.approx(0.8)
    assert budget_share([[1.0, 1.0]], 2) == 1.0
    assert math.isnan(budget_share([[0.0]], 1))
