import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from workbench.data import Batch, encode
from workbench.errors import InvalidValueError
from workbench.losses import cross_entropy, entropy, kl_divergence, token_nll

seeds = st.integers(0, 2**31)


def random_batch(seed, rows=3, width=7, vocab=11):
    """Random ids and response masks, the last rows padded, and logits to match."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab, (rows, width), generator=g)
    real = torch.arange(width) < torch.randint(3, width + 1, (rows, 1), generator=g)
    response = real & (torch.arange(width) >= torch.randint(0, 3, (rows, 1), generator=g))
    batch = Batch(ids, real, response, tuple(map(str, range(rows))))
    return batch, 3 * torch.randn(rows, width, vocab, generator=g)


def softmax(row):
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [x / sum(parts) for x in parts]


@given(seeds)
def test_token_nll_equals_a_loop_over_tokens(seed):
    batch, logits = random_batch(seed)
    found = token_nll(logits, batch)
    for i in range(len(batch)):
        for t in range(1, batch.input_ids.shape[1]):
            p = softmax(logits[i, t - 1].tolist())[batch.input_ids[i, t]]
            expected = -math.log(p) if batch.response_mask[i, t] else 0.0
            assert found[i, t - 1].item() == pytest.approx(expected, abs=1e-4)


@given(seeds)
def test_cross_entropy_is_the_mean_over_response_tokens(seed):
    batch, logits = random_batch(seed)
    scored = token_nll(logits, batch)[batch.scored]
    torch.testing.assert_close(cross_entropy(logits, batch), scored.mean())


def test_uniform_logits_cost_log_vocabulary():
    batch, logits = random_batch(0)
    assert cross_entropy(0 * logits, batch).item() == pytest.approx(math.log(11), abs=1e-6)


def test_cross_entropy_agrees_with_transformers():
    model, batch = tiny.llama(), encode(tiny.tokenizer(), tiny.examples())
    labels = batch.input_ids.masked_fill(~batch.response_mask, -100)
    out = model(batch.input_ids, attention_mask=batch.attention_mask, labels=labels)
    torch.testing.assert_close(cross_entropy(out.logits, batch), out.loss)


@given(seeds)
def test_only_scored_positions_get_gradient(seed):
    batch, logits = random_batch(seed)
    cross_entropy(logits.requires_grad_(), batch).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert torch.equal(moved[:, :-1], batch.scored) and not moved[:, -1].any()


def test_half_precision_logits_are_reduced_in_fp32():
    batch, logits = random_batch(1)
    half = logits.bfloat16()
    assert cross_entropy(half, batch).dtype is torch.float32
    torch.testing.assert_close(cross_entropy(half, batch), cross_entropy(half.float(), batch))


@given(seeds, seeds)
def test_kl_equals_a_loop(seed, other):
    batch, p = random_batch(seed)
    _, q = random_batch(other)
    terms = []
    for i, t in batch.response_mask.nonzero().tolist():
        a, b = softmax(p[i, t].tolist()), softmax(q[i, t].tolist())
        terms.append(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)))
    found = kl_divergence(p, q, batch.response_mask).item()
    assert found == pytest.approx(sum(terms) / len(terms), rel=1e-3, abs=1e-5)


def test_kl_of_two_coins():
    p, q = torch.tensor([[[0.8, 0.2]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    expected = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert kl_divergence(p, q, torch.ones(1, 1, dtype=torch.bool)).item() == pytest.approx(expected)


@given(seeds, seeds)
def test_kl_is_a_divergence(seed, other):
    batch, p = random_batch(seed)
    _, q = random_batch(other)
    mask = batch.response_mask
    forward = kl_divergence(p, q, mask)
    assert forward >= 0 and kl_divergence(p, p, mask) == 0
    shifted = p + torch.randn(*p.shape[:-1], 1)
    torch.testing.assert_close(kl_divergence(shifted, q, mask), forward, atol=1e-4, rtol=1e-4)
    by_row = kl_divergence(p, q)
    distance = (p.softmax(-1) - q.softmax(-1)).abs().sum(-1) / 2
    assert (distance <= (by_row / 2).clamp(min=0).sqrt() + 1e-3).all()  # Pinsker


@given(seeds)
def test_without_a_mask_there_is_one_value_a_position(seed):
    batch, p = random_batch(seed)
    q, mask = p.flip(0), batch.response_mask
    each = kl_divergence(p, q)
    assert each.shape == mask.shape
    torch.testing.assert_close(kl_divergence(p, q, mask), each[mask].mean())
    torch.testing.assert_close(kl_divergence(p[mask], q[mask]), each[mask])
    torch.testing.assert_close(entropy(p, mask), entropy(p)[mask].mean())


@given(seeds)
def test_entropy_is_log_vocabulary_minus_kl_to_uniform(seed):
    batch, p = random_batch(seed)
    mask = batch.response_mask
    expected = math.log(p.shape[-1]) - kl_divergence(p, 0 * p, mask)
    torch.testing.assert_close(entropy(p, mask), expected, atol=1e-5, rtol=1e-5)


def test_entropy_at_both_ends():
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert entropy(torch.zeros(1, 1, 8), mask).item() == pytest.approx(math.log(8))
    sure = torch.full((1, 1, 8), -math.inf)
    sure[..., 3] = 0.0
    assert entropy(sure, mask).item() == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(seeds)
def test_masked_positions_may_hold_anything(seed):
    batch, p = random_batch(seed)
    mask = batch.response_mask
    spoilt = p.masked_fill(~mask[..., None], 1e4)
    assert kl_divergence(spoilt, 0 * p, mask) == kl_divergence(p, 0 * p, mask)
    assert entropy(spoilt, mask) == entropy(p, mask)


@pytest.mark.parametrize("loss", [entropy, lambda x, m: kl_divergence(x, x, m)])
def test_an_empty_mask_is_refused(loss):
    with pytest.raises(InvalidValueError, match="at least one response token"):
        loss(torch.zeros(1, 2, 5), torch.zeros(1, 2, dtype=torch.bool))


def test_a_batch_without_response_is_refused():
    batch, logits = random_batch(0)
    empty = Batch(
        batch.input_ids, batch.attention_mask, batch.response_mask & False, batch.examples
    )
    with pytest.raises(InvalidValueError, match="response token"):
        cross_entropy(logits, empty)
