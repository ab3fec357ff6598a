"""Random-Vaccine: what its noise is, where it is not, and that it is replayed."""

import pytest
import torch
from accelerate import Accelerator
from scipy import stats

from tests import tiny
from tests.test_defences import streams
from tests.test_training import objective
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.defences.random_vaccine import RandomVaccine
from workbench.errors import InvalidValueError, SiteError
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.training import Context
from workbench.training import fit as train_fit

TEXTS = [Example(str(i), f"say {i} " * (i + 1), "word " * (4 - i)) for i in range(4)]
BATCH = encode(tiny.tokenizer(), TEXTS)
FIRST = "blocks.0.hook_attn_module_out"


def context(seed=0):
    return Context(0, 10, torch.Generator().manual_seed(seed), Accelerator())


@pytest.fixture(params=tiny.FAMILIES)
def lm(request):
    return HookedLM(tiny.FAMILIES[request.param]().eval())


def noise(lm, method, seed=0):
    """What the method adds in the first block, where its input is the clean one."""
    with torch.no_grad():
        with lm.record(FIRST) as clean:
            lm(BATCH)
        with lm.record(FIRST) as noisy:
            method.loss(lm, {"align": BATCH}, context(seed))
    return noisy[FIRST] - clean[FIRST]


def test_the_noise_is_gaussian_with_the_variance_given(lm):
    real = noise(lm, RandomVaccine(variance=0.25))[BATCH.attention_mask].flatten()
    assert len(real) > 1500
    assert stats.kstest(real.double().numpy(), "norm", (0, 0.5)).pvalue > 1e-3
    assert stats.kstest(real.double().numpy(), "norm", (0, 0.25)).pvalue < 1e-9  # not the std


def test_padding_gets_no_noise(lm):
    added = noise(lm, RandomVaccine(variance=1.0))
    assert not added[~BATCH.attention_mask].any()
    assert added[BATCH.attention_mask].all()


def test_every_site_draws_its_own(lm):
    method = RandomVaccine(variance=1.0)
    generator = torch.Generator().manual_seed(0)
    with lm.record("attn_module_out") as acts, torch.no_grad():
        method.loss(lm, {"align": BATCH}, Context(0, 10, generator, Accelerator()))
    again = torch.Generator().manual_seed(0)
    drawn = [torch.randn(acts[name].shape, generator=again) for name in acts]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(generator.get_state(), again.get_state())  # that much and no more


def test_the_generator_decides(lm):
    method = RandomVaccine(variance=1.0)
    assert torch.equal(noise(lm, method, seed=1), noise(lm, method, seed=1))
    assert not torch.equal(noise(lm, method, seed=1), noise(lm, method, seed=2))


def test_the_step_is_one_pass(lm):
    passes = []
    handle = lm.parts.base.register_forward_hook(lambda *_: passes.append(1))
    RandomVaccine(variance=1.0).loss(lm, {"align": BATCH}, context())
    handle.remove()
    assert len(passes) == 1


def test_gradients_are_those_at_the_perturbed_point(lm):
    method = RandomVaccine(variance=0.1, layers=(0,))
    added = noise(lm, method)
    method.loss(lm, {"align": BATCH}, context())["align"].backward()
    found = [p.grad.clone() for p in lm.model.parameters()]
    lm.model.zero_grad()
    with lm.intervene({FIRST: lambda h, name: h + added}):
        cross_entropy(lm(BATCH).logits, BATCH).backward()
    for a, p in zip(found, lm.model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_replays_the_noise(lm):
    results = []
    for recompute in (False, True):
        lm.model.train()
        torch.manual_seed(0)  # of GPT-2's dropout
        lm.gradient_checkpointing(recompute)
        lm.model.zero_grad()
        seen = context()
        RandomVaccine(variance=0.5).loss(lm, {"align": BATCH}, seen)["align"].backward()
        results.append(([p.grad.clone() for p in lm.model.parameters()], seen))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    states = [seen.generator.get_state() for _, seen in results]
    assert torch.equal(*states)  # replaying draws nothing


def test_without_noise_it_is_plain_alignment_to_the_bit():
    fit = Fit(steps=3, lr=1e-2, batch_size=4)
    control = RandomVaccine(variance=2.0, fit=fit).matched_control()
    assert control == RandomVaccine(variance=0.0, fit=fit)
    a = control.immunise(tiny.llama(), streams(["align"]), seed=0)
    b = tiny.llama()
    train_fit(b, streams(["align"]), objective(b), fit, seed=0)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_noise_changes_what_is_learnt():
    fit = Fit(steps=3, lr=1e-2, batch_size=4)
    a, b = (
        RandomVaccine(variance=v, fit=fit).immunise(tiny.llama(), streams(["align"]))
        for v in (0.0, 0.5)
    )
    assert not torch.equal(a.lm_head.weight, b.lm_head.weight)


def test_composes_with_bf16_lora_and_recomputation():
    fit = Fit(steps=2, lr=1e-2, batch_size=4, precision="bf16", gradient_checkpointing=True)
    method = RandomVaccine(variance=0.1, fit=fit, lora_rank=2)
    out = method.immunise(tiny.qwen3(), streams(["align"]))
    assert all(torch.isfinite(p).all() for p in out.parameters())


def test_chosen_layers_and_sites_only(lm):
    method = RandomVaccine(variance=1.0, layers=(1,), site="resid_post")
    assert not noise(lm, method).any()
    with torch.no_grad():
        clean = lm(BATCH).logits
        loss = method.loss(lm, {"align": BATCH}, context())["align"]
    assert loss != cross_entropy(clean, BATCH)


def test_bad_input_is_refused_with_advice(lm):
    with pytest.raises(InvalidValueError, match="variance"):
        RandomVaccine(variance=-1.0)
    with pytest.raises(SiteError, match="attn_module_out"):
        RandomVaccine(site="attn_modul_out").loss(lm, {"align": BATCH}, context())
