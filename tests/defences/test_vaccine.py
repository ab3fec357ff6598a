"""Vaccine's theorems: what the perturbation is, where it is not, and what it does to the loss."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.activations.families import make
from tests.test_defences import streams
from tests.test_training import objective
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.defences import Vaccine
from workbench.errors import InvalidValueError, SiteError, TrainingError
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.training import Context
from workbench.training import fit as train_fit

FAMILIES = ["llama", "gpt2", "qwen3", "gemma3"]
TEXTS = [Example(str(i), f"say {i} " * (i + 1), "word " * (4 - i)) for i in range(4)]
BATCH = encode(tiny.tokenizer(), TEXTS)
CONTEXT = Context(0, 10, torch.Generator(), Accelerator())


@pytest.fixture(params=FAMILIES)
def lm(request):
    return HookedLM(getattr(tiny, request.param)().eval())


def norm(drift):
    return torch.stack([e.norm() for e in drift.values()]).norm().item()


def loss_under(lm, drift):
    with lm.intervene({name: lambda h, name: h + drift[name] for name in drift}), torch.no_grad():
        return cross_entropy(lm(BATCH).logits, BATCH).item()


def oracle(lm, rho):
    """The same by recording in the graph and differentiating: slow, obvious, one global norm."""
    with lm.record("attn_module_out", grad=True) as acts:
        loss = cross_entropy(lm(BATCH).logits, BATCH)
    names = lm.resolve("attn_module_out")
    grads = torch.autograd.grad(loss, [acts[n] for n in names])
    total = math.sqrt(sum(float((g**2).sum()) for g in grads))
    return {n: rho * g / total for n, g in zip(names, grads, strict=True)}


def test_equals_the_obvious_computation(lm):
    drift, expected = Vaccine(rho=2.0).worst_drift(lm, BATCH), oracle(lm, 2.0)
    assert drift.keys() == expected.keys()
    for name, value in drift.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rho", [0.1, 2.0, 10.0])
def test_lies_on_the_sphere_of_radius_rho(lm, rho):
    assert norm(Vaccine(rho=rho).worst_drift(lm, BATCH)) == pytest.approx(rho, rel=1e-5)


def test_sample_scope_puts_every_row_on_its_own_sphere(lm):
    drift = Vaccine(rho=2.0, norm_scope="sample").worst_drift(lm, BATCH)
    rows = torch.stack([e.flatten(1).norm(dim=1) for e in drift.values()]).norm(dim=0)
    torch.testing.assert_close(rows, torch.full_like(rows, 2.0), rtol=1e-5, atol=0)


def test_layer_scope_puts_every_layer_on_its_own_sphere(lm):
    drift = Vaccine(rho=2.0, norm_scope="layer").worst_drift(lm, BATCH)
    assert [e.norm().item() for e in drift.values()] == pytest.approx([2.0] * lm.n_layers, rel=1e-5)


def test_sample_scope_does_not_care_how_the_batch_is_split(lm):
    vaccine = Vaccine(rho=2.0, norm_scope="sample")
    whole = vaccine.worst_drift(lm, BATCH)
    for row in range(len(BATCH)):
        alone = vaccine.worst_drift(lm, BATCH.rows([row]))
        for name, e in alone.items():
            torch.testing.assert_close(whole[name][row, : e.shape[1]], e[0], rtol=1e-3, atol=1e-5)


def test_padding_and_last_tokens_are_not_perturbed(lm):
    for name, e in Vaccine(rho=2.0).worst_drift(lm, BATCH).items():
        assert not e[~BATCH.attention_mask].any(), name
        last = BATCH.attention_mask.sum(-1) - 1
        assert not e[torch.arange(len(BATCH)), last].any(), name


def test_in_the_last_block_only_positions_that_predict_a_response_are_perturbed(lm):
    drift = Vaccine(rho=2.0).worst_drift(lm, BATCH)
    last = drift[lm.resolve("attn_module_out")[-1]]
    moved = last.abs().sum(-1) > 0
    assert not moved[:, :-1][~BATCH.scored].any()
    assert moved[:, :-1][BATCH.scored].all()
    first = drift[lm.resolve("attn_module_out")[0]].abs().sum(-1) > 0
    assert (first[:, :-1] & ~BATCH.scored & BATCH.attention_mask[:, :-1]).any()  # prompts too


def test_a_small_step_raises_the_loss_by_rho_times_the_gradient_norm(lm):
    clean = loss_under(lm, {})
    with lm.record("attn_module_out", grad=True) as acts:
        loss = cross_entropy(lm(BATCH).logits, BATCH)
    grads = torch.autograd.grad(loss, [acts[n] for n in lm.resolve("attn_module_out")])
    slope = torch.stack([g.norm() for g in grads]).norm().item()
    rho = 1e-2 / slope  # a rise of about 0.01 nats: far above rounding, far below curvature
    rise = loss_under(lm, Vaccine(rho=rho).worst_drift(lm, BATCH)) - clean
    assert rise == pytest.approx(rho * slope, rel=0.2)


def test_a_factor_on_the_loss_changes_nothing(lm, monkeypatch):
    plain = Vaccine(rho=2.0).worst_drift(lm, BATCH)
    monkeypatch.setattr(
        "workbench.defences.vaccine.cross_entropy", lambda *a: 8 * cross_entropy(*a)
    )
    for name, e in Vaccine(rho=2.0).worst_drift(lm, BATCH).items():
        torch.testing.assert_close(e, plain[name], rtol=1e-5, atol=1e-7)


def test_permuting_samples_permutes_the_perturbation(lm):
    order = [2, 0, 3, 1]
    plain = Vaccine(rho=2.0).worst_drift(lm, BATCH)
    for name, e in Vaccine(rho=2.0).worst_drift(lm, BATCH.rows(order)).items():
        torch.testing.assert_close(e, plain[name][order], rtol=1e-4, atol=1e-6)


def test_doubling_the_batch_halves_each_samples_energy(lm):
    plain = Vaccine(rho=2.0).worst_drift(lm, BATCH)
    twice = Vaccine(rho=2.0).worst_drift(lm, BATCH.rows([0, 1, 2, 3, 0, 1, 2, 3]))
    for name, e in twice.items():
        torch.testing.assert_close(e[:4], plain[name] / math.sqrt(2), rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_the_loss_at_the_perturbed_point():
    """The perturbation is a constant: nothing flows back through how it was found."""
    lm = HookedLM(tiny.llama())
    vaccine = Vaccine(rho=0.5)
    ours = vaccine.loss(lm, {"align": BATCH}, CONTEXT)["align"]
    ours.backward()
    found = [p.grad.clone() for p in lm.model.parameters()]
    lm.model.zero_grad()
    drift = oracle(lm, 0.5)
    with lm.intervene({n: lambda h, name: h + drift[name].detach() for n in drift}):
        cross_entropy(lm(BATCH).logits, BATCH).backward()
    for a, p in zip(found, lm.model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


def test_the_first_pass_leaves_no_weight_gradients():
    lm = HookedLM(tiny.llama())
    Vaccine(rho=0.5).worst_drift(lm, BATCH)
    assert all(p.grad is None for p in lm.model.parameters())


def test_a_loss_leaves_no_hooks_and_moves_no_weight(lm):
    before = {k: v.clone() for k, v in lm.model.state_dict().items()}
    Vaccine(rho=0.5).loss(lm, {"align": BATCH}, CONTEXT)["align"].backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert all(torch.equal(v, before[k]) for k, v in lm.model.state_dict().items())


@pytest.mark.parametrize("seed", range(6))
def test_norm_and_scale_are_fp32_under_bf16(seed):
    """What is left is the rounding of each entry, which cancels over thousands of them."""
    lm = HookedLM(tiny.llama(seed=seed))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drift = Vaccine(rho=2.0).worst_drift(lm, BATCH)
    assert {e.dtype for e in drift.values()} == {torch.bfloat16}
    total = torch.stack([e.float().norm() for e in drift.values()]).norm()
    assert total.item() == pytest.approx(2.0, rel=5e-4)


def test_only_a_norm_over_the_micro_batch_depends_on_how_a_batch_is_split():
    assert Vaccine().coupled and Vaccine(norm_scope="layer").coupled
    assert not Vaccine(norm_scope="sample").coupled
    assert not Vaccine(rho=0.0).coupled


def test_works_when_nothing_below_the_site_is_trained():
    lm = HookedLM(tiny.llama())
    for p in lm.model.parameters():
        p.requires_grad_(False)
    lm.parts.blocks[-1].requires_grad_(True)
    assert norm(Vaccine(rho=1.0).worst_drift(lm, BATCH)) == pytest.approx(1.0, rel=1e-5)


def test_gradient_checkpointing_gives_the_same_perturbation_and_gradients():
    results = []
    for recompute in (False, True):
        lm = HookedLM(tiny.llama())
        lm.gradient_checkpointing(recompute)
        lm.model.train()
        vaccine = Vaccine(rho=0.5)
        vaccine.loss(lm, {"align": BATCH}, CONTEXT)["align"].backward()
        results.append([p.grad for p in lm.model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_rho_zero_is_plain_alignment_to_the_bit(family):
    fit = Fit(steps=3, lr=1e-2, batch_size=4)
    control = Vaccine(rho=2.0, fit=fit).matched_control()
    assert control == Vaccine(rho=0.0, fit=fit)
    a, b = control.immunise(getattr(tiny, family)(), streams(["align"])), getattr(tiny, family)()
    train_fit(b, streams(["align"]), objective(b), fit, seed=0)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_sample_scope_trains_alike_however_the_batch_is_split():
    """And the paper's scope does not: there a part is scaled by its own norm."""
    fit = Fit(steps=3, lr=1e-2, batch_size=4, optimiser="sgd", clip=None, warmup=0)

    def trained(scope, size):
        method = Vaccine(rho=1.0, norm_scope=scope, fit=replace(fit, micro_batch=size))
        out = method.immunise(tiny.llama(), streams(["align"]))
        return torch.cat([p.detach().flatten() for p in out.parameters()])

    moved = {scope: trained(scope, None) - trained(scope, 1) for scope in ("sample", "batch")}
    assert moved["sample"].abs().max() < 1e-5
    assert moved["batch"].abs().max() > 1e-3


def test_chosen_layers_and_sites_only(lm):
    vaccine = Vaccine(rho=1.0, layers=(1,), site="resid_post")
    assert vaccine.sites(lm) == ("blocks.1.hook_resid_post",)
    assert norm(vaccine.worst_drift(lm, BATCH)) == pytest.approx(1.0, rel=1e-5)


def test_bad_input_is_refused_with_advice(lm):
    with pytest.raises(InvalidValueError, match="rho"):
        Vaccine(rho=-1.0)
    with pytest.raises(SiteError, match="attn_module_out"):
        Vaccine(site="attn_modul_out").sites(lm)
    with pytest.raises(SiteError):
        Vaccine(layers=(99,)).sites(lm)


def test_a_model_without_attention_names_the_sites_it_has():
    lm = HookedLM(make("mamba"))
    with pytest.raises(SiteError, match=r"no module known to give it.*resid_pre, resid_post"):
        Vaccine().sites(lm)
    assert norm(Vaccine(rho=1.0, site="resid_post").worst_drift(lm, BATCH)) == pytest.approx(1)


def test_a_gradient_that_is_not_finite_is_refused():
    model = tiny.llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[5:] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        Vaccine(rho=1.0).worst_drift(HookedLM(model, check=False), BATCH)


def test_replacing_a_field_keeps_the_rest():
    assert replace(Vaccine(rho=1.0), norm_scope="layer").rho == 1.0
