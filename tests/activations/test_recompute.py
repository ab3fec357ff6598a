"""Gradient checkpointing gives the gradients of the forward pass that was taken, edits included."""

import pytest
import torch

from tests import tiny
from tests.activations.models import batch, loss
from workbench.activations import HookedLM
from workbench.errors import InvalidValueError

EDITS = {
    "constant": lambda x, name: x + 0.3,
    "noise": lambda x, name: x + 0.3 * torch.randn_like(x),
    "tanh": lambda x, name: x + torch.tanh(x),
}


def gradients(lm, site, edit, checkpointing, record=()):
    """Gradients taken after the contexts have closed, and how often each site was recorded."""
    x = batch()
    lm.model.train()
    lm.model.zero_grad()
    lm.gradient_checkpointing(checkpointing)
    torch.manual_seed(0)
    with lm.intervene({site: edit}), lm.record(*(record or ["resid_post"])) as acts:
        total = loss(lm(x), x)
    total.backward()
    lm.gradient_checkpointing(False)
    return {n: p.grad.clone() for n, p in lm.model.named_parameters()}, acts.counts


def assert_equal(a, b):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["attn_module_out", "resid_post"])
@pytest.mark.parametrize("edit", EDITS)
def test_gradients_equal_those_without_checkpointing(family, site, edit):
    dropout = {"attention_dropout": 0.1} if family != "gpt2" else {}  # gpt2 has dropout anyway
    lm = HookedLM(tiny.FAMILIES[family](**dropout))
    sites = ("resid_post", "attn_out", "mlp_out", "resid_pre")
    plain, counts = gradients(lm, site, EDITS[edit], False, sites)
    checkpointed, counts_checkpointed = gradients(lm, site, EDITS[edit], True, sites)
    assert_equal(plain, checkpointed)
    assert counts == counts_checkpointed
    assert set(counts.values()) == {1}


def test_the_test_would_notice_a_forgotten_edit():
    """With transformers' own switch the loss is the same and the gradients are not."""
    lm = HookedLM(tiny.llama())
    plain, _ = gradients(lm, "attn_module_out", EDITS["constant"], False)
    lm.model.zero_grad()
    x = batch()
    with lm.intervene({"attn_module_out": EDITS["constant"]}):
        lm.model.gradient_checkpointing_enable({"use_reentrant": False})
        total = loss(lm(x), x)
    total.backward()
    assert any(
        (plain[n] - p.grad).norm() > 0.05 * plain[n].norm() for n, p in lm.model.named_parameters()
    )


def test_foreign_checkpointing_is_refused():
    lm = HookedLM(tiny.llama().train())
    lm.model.gradient_checkpointing_enable({"use_reentrant": False})
    refused = pytest.raises(InvalidValueError, match=r"Call HookedLM.gradient_checkpointing\(\)")
    with refused, lm.intervene({"resid_post": EDITS["constant"]}):
        lm(batch())
    with torch.no_grad(), lm.intervene({"resid_post": EDITS["constant"]}):
        lm(batch())  # nothing is recomputed without gradients


@pytest.mark.parametrize("draws_are_declared", [True, False])
def test_own_generators_are_replayed_when_declared(draws_are_declared):
    lm = HookedLM(tiny.llama().train())
    x, found = batch(), []
    for on in (False, True):
        generator = torch.Generator().manual_seed(1)

        def noise(act, name, generator=generator):
            return act + 0.3 * torch.randn(act.shape, generator=generator)

        lm.gradient_checkpointing(on)
        lm.model.zero_grad()
        given = [generator] if draws_are_declared else []
        with lm.intervene({"attn_module_out": noise}, generators=given):
            total = loss(lm(x), x)
        after = generator.get_state()
        total.backward()
        assert torch.equal(generator.get_state(), after) == (draws_are_declared or not on)
        found.append({n: p.grad.clone() for n, p in lm.model.named_parameters()})
    if draws_are_declared:
        assert_equal(*found)
    else:
        with pytest.raises(AssertionError):
            assert_equal(*found)


def test_gradients_reach_activations_recorded_inside_recomputed_blocks():
    lm = HookedLM(tiny.llama().train())
    x, found = batch(), []
    for on in (False, True):
        lm.gradient_checkpointing(on)
        with lm.record("attn_module_out", grad=True) as acts:
            total = loss(lm(x), x)
        found.append(torch.autograd.grad(total, list(acts.values())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_backward_inside_another_context_neither_edits_nor_records():
    lm = HookedLM(tiny.llama())
    plain, _ = gradients(lm, "attn_module_out", EDITS["tanh"], False)
    lm.gradient_checkpointing()
    lm.model.zero_grad()
    x = batch()
    with lm.intervene({"attn_module_out": EDITS["tanh"]}):
        total = loss(lm(x), x)
    with lm.record("attn_module_out") as acts, lm.intervene({"attn_out": lambda x, name: x + 1}):
        total.backward()
        assert not acts.counts
        lm(x)
    assert_equal(plain, {n: p.grad for n, p in lm.model.named_parameters()})
