"""The streaming pass: equal to whole logits in fp64, whatever the chunks, heads and caps."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests import tiny
from tests.test_readout import BATCH, MODELS
from workbench import vocabulary_pass
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.errors import InvalidValueError, ModelError
from workbench.final_states import FinalStates, begun, final_states
from workbench.readout import ReadOut
from workbench.vocabulary_pass import compare, describe
from workbench.vocabulary_terms import jensen_shannon, movers


class Odd(nn.Module):
    """A head that is not a plain linear one, so that it cannot be sliced."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def states(seed, n=7, d=5, vocabulary=50, *, bias=True, odd=False, scale=1.0, softcap=None):
    random = torch.Generator().manual_seed(seed)
    head = nn.Linear(d, vocabulary, bias=bias)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=random))
    values = torch.randn(n, d, generator=random)
    targets = torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(9))
    read = ReadOut(nn.Identity(), Odd(head) if odd else head, vocabulary, scale, softcap)
    return FinalStates(values, targets, ("a", "b"), (n - 3, 3), read)


def oracle(p):
    """The obvious way: all logits in fp64."""
    head = p.head.head.inner if isinstance(p.head.head, Odd) else p.head.head
    bias = None if head.bias is None else head.bias.double()
    z = F.linear(p.values.double(), head.weight.double(), bias) * p.head.scale
    if p.head.softcap is not None:
        z = p.head.softcap * (z / p.head.softcap).tanh()
    return z.detach()


def close(found, expected, **more):
    torch.testing.assert_close(found.double(), expected.double(), **{"rtol": 1e-5, "atol": 2e-6}
                               | more)  # fmt: skip


@given(
    n=st.integers(4, 9), vocabulary=st.integers(2, 90), chunk=st.integers(7, 100),
    tile=st.sampled_from([1, 64, 2**20]), bias=st.booleans(), odd=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]), softcap=st.sampled_from([None, 2.0]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_equals_whole_logits_in_fp64(n, vocabulary, chunk, tile, **head):
    p, q = (states(s, n, vocabulary=vocabulary, **head) for s in (0, 1))
    chosen = torch.arange(0, vocabulary, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_pass, "TILES", {"cpu": tile, "cuda": tile})
        found = compare(p, q, chosen, chunk=chunk, ranked=True)
        js = jensen_shannon(p, q, found, chunk=chunk)
        moved = movers(p, q, 4, chunk=chunk)
        alone = describe(p, chosen, chunk=chunk, ranked=True)
    z, w = oracle(p), oracle(q)
    lp, lq = z.log_softmax(-1), w.log_softmax(-1)
    close(found.forward_kl, F.kl_div(lq, lp, reduction="none", log_target=True).sum(-1))
    close(found.reverse_kl, F.kl_div(lp, lq, reduction="none", log_target=True).sum(-1))
    for side, x, logits in ((found.p, lp, z), (found.q, lq, w), (alone, lp, z)):
        own = x.gather(1, p.targets[:, None])[:, 0]
        close(side.log_sum_exp, logits.logsumexp(-1))
        close(side.entropy, -(x.exp() * x).sum(-1))
        close(side.gini, 1 - x.exp().square().sum(-1))
        close(side.nll, -own)
        close(side.mass, x[:, chosen].exp().sum(-1))
        assert side.best.tolist() == x.argmax(-1).tolist()
        assert side.rank.tolist() == (x > own[:, None] + 1e-6).sum(-1).tolist()
    lm = torch.logaddexp(lp, lq) - math.log(2)
    close(js, ((lp.exp() * (lp - lm)) + lq.exp() * (lq - lm)).sum(-1) / 2)
    gaps = (lp.exp() - lq.exp()).abs()
    close(((moved.p - moved.q).abs()), gaps.topk(min(4, vocabulary), dim=1).values)
    close(moved.p, lp.exp().gather(1, moved.tokens))
    close(moved.contribution, (lp.exp() * (lp - lq)).gather(1, moved.tokens))


@given(st.integers(0, 50), st.floats(0.01, 30), st.integers(5, 60))
@settings(max_examples=20, deadline=None)
def test_what_information_theory_promises(seed, size, chunk):
    p, q = states(seed), states(seed + 100)
    p = replace(p, values=p.values * size)
    found = compare(p, q, chunk=chunk)
    js = jensen_shannon(p, q, found, chunk=chunk)
    distance = 0.5 * (oracle(p).softmax(-1) - oracle(q).softmax(-1)).abs().sum(-1)
    assert (found.forward_kl >= 0).all() and (found.reverse_kl >= 0).all()
    assert (distance <= (found.forward_kl / 2).sqrt() + 1e-5).all()  # Pinsker
    assert ((js >= 0) & (js <= math.log(2))).all()
    assert (js <= distance * math.log(2) + 1e-6).all()  # Lin 1991
    for side in (found.p, found.q):
        assert ((side.entropy >= 0) & (side.entropy <= math.log(50) + 1e-6)).all()
        assert ((side.gini >= 0) & (side.gini <= side.entropy + 1e-6)).all()


def test_a_distribution_does_not_differ_from_itself():
    for odd in (False, True):
        p = states(0, odd=odd)
        found = compare(p, p, chunk=7)
        assert not found.forward_kl.any() and not found.reverse_kl.any()
        assert not jensen_shannon(p, p, found, chunk=7).any()


def test_what_differs_at_the_first_three_tokens_is_found_there_and_nowhere_else():
    """The head's input is moved (a bias on the logits) at the positions k < 3 of each example."""
    p = states(0, n=11)
    early = torch.cat([torch.arange(n) < 3 for n in p.lengths])
    q = replace(p, values=p.values + early[:, None] * torch.ones(5))
    found = compare(p, q, chunk=7)
    for kl in (found.forward_kl, found.reverse_kl, jensen_shannon(p, q, found)):
        assert ((kl > 0) == early).all()


def test_a_constant_added_to_the_logits_of_a_row_changes_nothing():
    p, q = states(0), states(1)
    shifted = states(1)
    with torch.no_grad():
        shifted.head.head.bias.add_(50.0)
    close(compare(p, shifted).forward_kl, compare(p, q).forward_kl, atol=2e-5)


def test_logits_of_any_size_neither_overflow_nor_vanish():
    p, q = states(0), states(1)
    p, q = replace(p, values=p.values * 1e3), replace(q, values=q.values * 1e3)
    lp, lq = oracle(p).log_softmax(-1), oracle(q).log_softmax(-1)
    found = compare(p, q, chunk=8)
    close(found.forward_kl, (lp.exp() * (lp - lq)).sum(-1))
    assert found.p.entropy.isfinite().all()


def test_small_divergences_are_resolved():
    p = states(0, vocabulary=4000)
    q = states(0, vocabulary=4000)
    with torch.no_grad():
        q.head.head.weight.mul_(1.001)
    lp, lq = oracle(p).log_softmax(-1), oracle(q).log_softmax(-1)
    expected = (lp.exp() * (lp - lq)).sum(-1)
    assert expected.max() < 1e-4
    close(compare(p, q).forward_kl, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_final_states_read_what_the_model_would_say(name):
    """Soft caps (Gemma 2), logit scales (Cohere, Granite) and biases act inside the tiles."""
    model = MODELS[name]()
    read = final_states(model, BATCH)
    assert type(read.head.head) is nn.Linear
    own = HookedLM(model)(BATCH).logits[:, :-1][BATCH.scored].detach()
    tiles = read.tiles(0, len(read.values))
    sliced = torch.cat([tiles(0, 100), tiles(100, 101), tiles(101, tiny.VOCABULARY)], dim=1)
    torch.testing.assert_close(sliced, own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(describe(read, chunk=33).entropy,
                               torch.distributions.Categorical(logits=own.double()).entropy(),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    picked = own.gather(1, read.targets[:, None])[:, 0]
    torch.testing.assert_close(tiles.at(read.targets), picked, rtol=1e-5, atol=1e-5)


def test_an_own_head_outlives_training():
    model = tiny.llama()
    kept, borrowed = (final_states(model, BATCH, own_head=own) for own in (True, False))
    before = describe(kept).nll
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert torch.equal(describe(kept).nll, before)
    assert not torch.equal(describe(borrowed).nll, before)


def test_batches_and_sides_do_not_matter():
    model = tiny.gpt2()
    whole = describe(final_states(model, BATCH)).nll
    left = describe(final_states(model, encode(tiny.tokenizer(), tiny.examples(), side="left"))).nll
    torch.testing.assert_close(left, whole, rtol=1e-4, atol=1e-5)
    order = [2, 0, 3, 1]
    parts = final_states(model, BATCH).by_example(whole)
    permuted = final_states(model, BATCH.rows(order))
    for i, part in zip(order, permuted.by_example(describe(permuted).nll), strict=True):
        torch.testing.assert_close(part, parts[i], rtol=1e-4, atol=1e-5)


def test_responses_are_cut_after_their_first_tokens():
    for side in ("right", "left"):
        batch = encode(tiny.tokenizer(), tiny.examples(), side=side)
        cut = begun(batch, 3)
        assert cut.response_mask.sum(1).tolist() == [3] * len(batch)
        assert cut.tokens < batch.tokens
        long = describe(final_states(tiny.llama(), batch)).nll.split(batch.scored.sum(1).tolist())
        short = describe(final_states(tiny.llama(), cut)).nll.split(3)
        for x, y in zip(long, short, strict=True):
            torch.testing.assert_close(x[:3], y, rtol=1e-4, atol=1e-5)
    assert begun(BATCH, 10_000) is BATCH
    with pytest.raises(InvalidValueError, match="at least one response position"):
        begun(BATCH, 0)


def test_the_first_positions_of_the_first_examples():
    read = final_states(tiny.llama(), BATCH)
    part = read.first(2, 3)
    assert part.examples == BATCH.examples[:2] and part.lengths == (3, 3)
    nll = read.by_example(describe(read).nll)
    torch.testing.assert_close(describe(part).nll, torch.cat([nll[0][:3], nll[1][:3]]))


def test_bad_input_is_met_at_the_door():
    with pytest.raises(InvalidValueError, match="'mute'"):
        final_states(tiny.llama(), BATCH.__class__(
            BATCH.input_ids, BATCH.attention_mask, BATCH.response_mask & False,
            ("mute", *BATCH.examples[1:])))  # fmt: skip
    with pytest.raises(InvalidValueError, match="context of 12 tokens"):
        final_states(tiny.llama(max_position_embeddings=12), BATCH)
    broken = tiny.llama()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        final_states(broken, BATCH)
    late = tiny.gpt2()  # an overflow that a few dummy tokens do not show
    with torch.no_grad():
        late.transformer.wpe.weight[20:].fill_(float("inf"))
    with pytest.raises(ModelError, match="final states of GPT2LMHeadModel are not finite"):
        final_states(late, encode(tiny.tokenizer(), [Example("x", "how " * 20, "so")]))
    p = states(0)
    with pytest.raises(InvalidValueError, match="50 and 60 tokens"):
        compare(p, states(1, vocabulary=60))
    with pytest.raises(InvalidValueError, match="different texts"):
        compare(p, replace(p, examples=("a", "c")))
    with pytest.raises(InvalidValueError, match="at least one token"):
        describe(p, chunk=0)
