"""Inner products of examples' gradients beside the gradients themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from workbench import example_gradients
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, encode
from workbench.errors import InvalidValueError, ModelError
from workbench.example_gradients import gradient_gram
from workbench.gradient_factors import gram
from workbench.losses import cross_entropy

TIED = [(name, tied) for name in tiny.FAMILIES for tied in (False, True)]


def batches(side="right"):
    make = tiny.tokenizer()
    return [encode(make, tiny.examples(), side=side), encode(make, tiny.examples(3)[1:], side=side)]


def oracle(model, parts):
    """Every example's gradient in full."""
    lm, rows = HookedLM(model, check=False), []
    wanted = [p for p in model.parameters() if p.requires_grad]
    for part in parts:
        for i in range(len(part)):
            loss = cross_entropy(lm(part.rows([i])).logits, part.rows([i]))
            grads = torch.autograd.grad(loss, wanted, allow_unused=True)
            flat = [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(wanted, grads, strict=True)
            ]
            rows.append(torch.cat(flat))
    stacked = torch.stack(rows).double()
    return stacked @ stacked.T


def close(found, want, rel=1e-4):
    size = want.diagonal().sqrt()
    assert ((found - want).abs() / torch.outer(size, size)).max() < rel


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "tied"), TIED)
def test_inner_products_are_those_of_the_gradients(name, tied, side):
    model = tiny.FAMILIES[name](tie_word_embeddings=tied)
    close(gradient_gram(model, batches(side)), oracle(model, batches(side)))


@pytest.mark.parametrize("factors", [True, False])
def test_both_ways_of_measuring_a_matrix_agree(factors, monkeypatch):
    model, parts = tiny.llama(), batches()

    def forced(one, n):
        if factors:
            products = gram(one.x, one.x) * gram(one.delta, one.delta)
            return example_gradients._summed(products, one, one, n)
        each = [one.delta[one.example == i].T @ one.x[one.example == i] for i in range(n)]
        flat = torch.stack(each).flatten(1).double()
        return flat @ flat.T

    whole = gradient_gram(model, parts)
    monkeypatch.setattr(example_gradients, "_of_matrix", forced)
    close(gradient_gram(model, parts), whole, rel=1e-5)


def test_micro_batches_change_nothing(monkeypatch):
    model = tiny.qwen3()
    whole = gradient_gram(model, batches())
    monkeypatch.setattr(example_gradients, "MICRO_BATCH", 2)
    close(gradient_gram(model, batches()), whole, rel=1e-5)


def test_adapters_alone_count():
    model = with_lora(tiny.llama(), rank=2, alpha=4.0)
    close(gradient_gram(model, batches()), oracle(model, batches()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.integers(1, 12), d=st.integers(1, 9), m=st.integers(1, 9))
def test_the_identity_behind_it_holds_to_rounding(seed, t, d, m):
    """‖Σ_t δ_t x_tᵀ‖² = Σ_{s,t} (x_s · x_t)(δ_s · δ_t), to 4e-12 in fp64."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(t, d, dtype=torch.float64, generator=draw)
    delta = torch.randn(t, m, dtype=torch.float64, generator=draw)
    left = (delta.T @ x).square().sum()
    right = (gram(x, x) * gram(delta, delta)).sum()
    scale = (x.norm(dim=1) * delta.norm(dim=1)).sum().square()
    assert abs(left - right) <= 4e-12 * scale


def test_bad_input_is_refused():
    model, (part, _) = tiny.llama(), batches()
    with pytest.raises(InvalidValueError, match="no examples"):
        gradient_gram(model, [])
    empty = Batch(part.input_ids, part.attention_mask, torch.zeros_like(part.response_mask),
                  part.examples)  # fmt: skip
    with pytest.raises(InvalidValueError, match="'e0' has no response"):
        gradient_gram(model, [empty])
    with torch.no_grad():
        model.lm_head.weight[7, 0] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        gradient_gram(model, [part])
