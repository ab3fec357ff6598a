"""Reading out: the model's own logits, from chosen positions, at no vocabulary-sized cost."""

import gc
import weakref

import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tests import tiny
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import encode
from workbench.errors import ModelError
from workbench.losses import token_nll
from workbench.readout import ReadOut, read_out, same

BATCH = encode(tiny.tokenizer(), tiny.examples())
VOCAB = tiny.VOCABULARY


def gemma2():
    return tiny._make(
        Gemma2ForCausalLM, Gemma2Config(**tiny._SIZES, final_logit_softcapping=3.0), 0
    )


def cohere():
    return tiny._make(CohereForCausalLM, CohereConfig(**tiny._SIZES, logit_scale=0.25), 0)


def cohere2():
    return tiny._make(Cohere2ForCausalLM, Cohere2Config(**tiny._SIZES, logit_scale=0.25), 0)


def granite():
    return tiny._make(GraniteForCausalLM, GraniteConfig(**tiny._SIZES, logits_scaling=8.0), 0)


def hyperclova():
    config = HyperCLOVAXConfig(**tiny._SIZES, logits_scaling=0.125)
    return tiny._make(HyperCLOVAXForCausalLM, config, 0)


MODELS = {**tiny.FAMILIES, "gemma2": gemma2, "cohere": cohere, "cohere2": cohere2,
          "granite": granite, "hyperclova": hyperclova}  # fmt: skip


@pytest.fixture(params=MODELS)
def lm(request):
    return HookedLM(MODELS[request.param]())


def test_gives_the_models_own_logits_from_the_stream_and_from_the_normed_stream(lm):
    read = read_out(lm)
    with torch.no_grad(), lm.record("resid_post", "ln_final.hook_out") as acts:
        own = lm(BATCH).logits
    last = acts[lm.resolve("resid_post")[-1]]
    torch.testing.assert_close(read(last), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read(acts["ln_final.hook_out"], normed=True), own)
    assert read.vocabulary == VOCAB


def test_what_comes_after_the_head_is_known():
    assert read_out(HookedLM(gemma2())).softcap == 3.0
    assert read_out(HookedLM(cohere())).scale == 0.25
    assert read_out(HookedLM(granite())).scale == 1 / 8
    assert read_out(HookedLM(hyperclova())).scale == 1 / 8  # multiplies where Granite divides
    plain = read_out(HookedLM(tiny.llama()))
    assert (plain.scale, plain.softcap) == (1.0, None)


@pytest.mark.parametrize("chunk", [None, 1, 3, 1000])
def test_nll_is_that_of_the_models_own_logits(lm, chunk):
    read, batch = read_out(lm), BATCH
    with torch.no_grad():
        expected = token_nll(lm(batch).logits, batch)[batch.scored]
        states = lm.stream(batch)[:, :-1][batch.scored]
        found = read.nll(states, batch.input_ids[:, 1:][batch.scored], normed=True, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_models_own_logits(lm):
    batch, grads = BATCH, []
    for ours in (True, False):
        lm.model.zero_grad()
        if ours:
            states = lm.stream(batch)[:, :-1][batch.scored]
            targets = batch.input_ids[:, 1:][batch.scored]
            loss = read_out(lm).nll(states, targets, normed=True, chunk=5).mean()
        else:
            loss = token_nll(lm(batch).logits, batch)[batch.scored].mean()
        loss.backward()
        grads.append({n: p.grad.clone() for n, p in lm.model.named_parameters()})
    for name, found in grads[0].items():
        torch.testing.assert_close(found, grads[1][name], rtol=1e-4, atol=1e-6, msg=name)


def kept_for_backward(run):
    """Shapes of all tensors that autograd keeps, whoever keeps them."""
    shapes = []

    def keep(x):
        shapes.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = run()
    return out, shapes


def test_nothing_as_wide_as_the_vocabulary_is_kept_for_backward():
    lm, batch = HookedLM(tiny.llama()), BATCH
    targets = batch.input_ids[:, 1:][batch.scored]

    def naive():
        return token_nll(lm(batch).logits, batch).sum()

    def ours():
        return read_out(lm).nll(lm.stream(batch)[:, :-1][batch.scored], targets, normed=True).sum()

    def wide(shapes):  # activations; the head's weight itself is [vocab, d] or its transpose
        weights = {(VOCAB, 32), (32, VOCAB)}
        return [s for s in shapes if VOCAB in s and s not in weights]

    read_out(lm)
    assert wide(kept_for_backward(naive)[1])
    loss, shapes = kept_for_backward(ours)
    assert not wide(shapes)
    loss.backward()


def test_open_contexts_neither_see_nor_change_a_read_out():
    lm = HookedLM(tiny.llama())
    states = torch.randn(2, 32)
    expected = read_out(lm)(states)
    with lm.intervene({"ln_final.hook_out": lambda h, name: 0 * h}), lm.record("ln_final") as acts:
        found = read_out(lm)(states)
        own = lm(BATCH).logits
        shape = acts["ln_final.hook_out"].shape
        read_out(lm)(states)
        assert acts["ln_final.hook_out"].shape == shape
    assert torch.equal(found, expected)
    assert not own.any()


def test_is_proved_once_even_while_contexts_are_open_and_draws_no_random_numbers():
    lm, passes = HookedLM(tiny.llama().train()), []
    lm.model.register_forward_hook(lambda *_: passes.append(1))
    state = torch.get_rng_state()
    with lm.intervene({"resid_post": lambda h, name: 0 * h}):
        first = read_out(lm)
        assert len(passes) == 1
        assert read_out(lm) is first
        lm(BATCH)
    assert len(passes) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.model.training


def test_lives_no_longer_than_its_model():
    lm = HookedLM(tiny.llama())
    read_out(lm)
    gone = weakref.ref(lm.model)
    del lm
    gc.collect()
    assert gone() is None


def test_works_with_adapters_and_in_bf16():
    lm = HookedLM(with_lora(tiny.llama(), rank=2))
    torch.testing.assert_close(read_out(lm)(lm.stream(BATCH), normed=True), lm(BATCH).logits)
    half = HookedLM(tiny.llama().to(torch.bfloat16))
    read = read_out(half)
    assert read(half.stream(BATCH), normed=True).dtype == torch.bfloat16
    nll = read.nll(half.stream(BATCH)[0, :3], BATCH.input_ids[0, 1:4], normed=True)
    assert nll.dtype == torch.float32


def test_no_positions_give_no_losses():
    lm = HookedLM(tiny.llama())
    found = read_out(lm).nll(torch.zeros(0, 32), torch.zeros(0, dtype=torch.long))
    assert found.shape == (0,)


def test_a_head_that_is_not_the_models_own_is_refused():
    model = tiny.llama()
    own = model.forward
    model.forward = lambda *a, **k: _shifted(own(*a, **k))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.*cannot be read out"):
        read_out(HookedLM(model))


def _shifted(out):
    out.logits = out.logits + torch.arange(VOCAB)
    return out


def test_a_projection_between_norm_and_head_is_refused():
    config = OPTConfig(
        vocab_size=VOCAB, hidden_size=32, word_embed_proj_dim=16, ffn_dim=48,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, init_std=0.3,
    )  # fmt: skip
    with pytest.raises(ModelError, match="OPTForCausalLM"):
        read_out(HookedLM(tiny._make(OPTForCausalLM, config, 0)))


def test_a_model_whose_logits_are_not_finite_is_refused_for_that():
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        read_out(HookedLM(model))


def test_sameness_allows_rounding_and_nothing_else():
    own = torch.randn(3, 50)
    assert same(own * (1 + 1e-6), own)
    assert not same(own * 1.01, own)
    assert not same(own[:, :40], own)
    assert not same(own * float("nan"), own)
    assert isinstance(read_out(HookedLM(tiny.llama())), ReadOut)
