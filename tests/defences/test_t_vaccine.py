"""T-Vaccine's theorems: how layers are scored and drawn, what moves, and what is never touched."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from scipy import stats
from torch.autograd.graph import saved_tensors_hooks
from transformers import Lfm2Config, Lfm2ForCausalLM

from tests import tiny
from tests.activations.families import SIZES, make
from tests.test_defences import streams
from tests.test_training import objective
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Example, encode
from workbench.defences.t_vaccine import TVaccine, active_layers
from workbench.defences.vaccine import Vaccine
from workbench.errors import InvalidValueError, SiteError, TrainingError
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.resume import Checkpoint
from workbench.training import Context
from workbench.training import fit as train_fit

TEXTS = [Example(str(i), f"say {i} " * (i + 1), "word " * (4 - i)) for i in range(4)]
BATCH = encode(tiny.tokenizer(), TEXTS)
BOTH = {"align": BATCH, "harmful": BATCH}
FIT = Fit(steps=4, lr=1e-2, batch_size=4, warmup=0, weight_decay=0.1)
LAYERS = 4
DEEP = {
    "llama": {"num_hidden_layers": LAYERS},
    "qwen3": {"num_hidden_layers": LAYERS},
    "gpt2": {"n_layer": LAYERS},
    "gemma3": {
        "num_hidden_layers": LAYERS,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}


def deep(family="llama", **config):
    return tiny.FAMILIES[family](**DEEP[family] | config)


@pytest.fixture(params=tiny.FAMILIES)
def family(request):
    return request.param


def context(step=0, seed=0, **kw):
    return Context(step, 10, torch.Generator().manual_seed(seed), Accelerator(), **kw)


def holding(*layers, **kw):
    """A context between draws, with these layers active."""
    return context(step=1, memory={"active": [float(i) for i in layers]}, **kw)


def run(method, model, seed=0, **kw):
    """Train in place; the layers that were active in each step."""
    lm, seen = HookedLM(model), []
    step = method.objective(lm, {})

    def watched(batches, context):
        losses = step(batches, context)
        seen.append(active_layers(context))
        return losses

    train_fit(model, streams(method.streams), watched, method.fit, seed=seed, **kw)
    return seen


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def moved(before, model):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


def of_block(name):
    """The block that a parameter belongs to, by its name; None outside blocks."""
    numbers = [part for part in name.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else None


# Scoring


def reference(lm, batch):
    """Norms of the gradients, by recording in the graph: slow and obvious."""
    names = lm.resolve("attn_module_out")
    with lm.record("attn_module_out", grad=True) as acts:
        loss = cross_entropy(lm(batch).logits, batch)
    norms = [g.norm() for g in torch.autograd.grad(loss, [acts[n] for n in names])]
    return torch.stack(norms) / torch.stack(norms).sum()


def test_p_is_the_share_of_the_gradient_norm(family):
    lm = HookedLM(deep(family).eval())
    p = TVaccine(active=1).probability(lm, BATCH, context())
    torch.testing.assert_close(p, reference(lm, BATCH), rtol=1e-4, atol=1e-6)
    assert p.sum().item() == pytest.approx(1, rel=1e-6)
    assert (p > 0).all() and p.std() > 0.01  # the check could tell it from uniform


def test_scoring_in_micro_batches_is_scoring_at_once(family):
    lm, method = HookedLM(deep(family).eval()), TVaccine(active=1)
    whole = method.probability(lm, BATCH, context())
    split = method.probability(lm, BATCH, context(micro_batch=1))
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)


def test_only_the_first_harmful_rows_are_scored():
    lm, given = HookedLM(deep().eval()), context()
    TVaccine(active=1, score_rows=2, rho=0.0).backward(lm, BOTH, given)
    expected = reference(lm, BATCH.rows([0, 1]))
    torch.testing.assert_close(
        torch.tensor(given.memory["probability"]), expected, rtol=1e-4, atol=1e-6
    )


def test_scoring_moves_nothing(family):
    lm = HookedLM(deep(family).train())  # GPT-2 has dropout
    lm.parts.blocks[0].requires_grad_(False)
    before = [p.requires_grad for p in lm.model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    TVaccine(active=1).probability(lm, BATCH, context())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in lm.model.parameters())
    assert [p.requires_grad for p in lm.model.parameters()] == before


def test_scoring_under_recomputation_and_bf16():
    lm = HookedLM(deep().train())
    expected = reference(lm, BATCH)
    lm.gradient_checkpointing()
    torch.testing.assert_close(
        TVaccine(active=1).probability(lm, BATCH, context()), expected, rtol=1e-4, atol=1e-6
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = TVaccine(active=1).probability(lm, BATCH, context())
    assert p.dtype == torch.float32
    assert p.sum().item() == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(p, expected, rtol=0.2, atol=0)


# Drawing


def drawn(p, size, times):
    given = context(memory={"probability": list(p)})
    method = TVaccine(active=size)
    return [method.draw(given, size) for _ in range(times)]


def test_drawn_layers_are_sorted_and_different():
    for layers in drawn([0.1, 0.2, 0.3, 0.4], 3, 50):
        assert len(layers) == len(set(layers)) == 3
        assert list(layers) == sorted(layers)
        assert set(layers) <= set(range(4))


def test_a_single_layer_is_drawn_in_proportion_to_p():
    p = [0.1, 0.2, 0.3, 0.4]
    counts = [drawn(p, 1, 2000).count((i,)) for i in range(4)]
    assert stats.chisquare(counts, [2000 * x for x in p]).pvalue > 1e-3
    assert stats.chisquare(counts).pvalue < 1e-9  # the test could tell


def test_further_layers_are_drawn_from_what_is_left():
    p = [0.1, 0.2, 0.3, 0.4]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = [p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs]
    draws = drawn(p, 2, 2000)
    counts = [draws.count(pair) for pair in pairs]
    assert stats.chisquare(counts, [2000 * x for x in expected]).pvalue > 1e-3


def test_layers_are_scored_and_drawn_when_due(monkeypatch):
    scored, drew = [], []
    score, draw = TVaccine.probability, TVaccine.draw
    monkeypatch.setattr(
        TVaccine,
        "probability",
        lambda self, lm, b, c: (scored.append(c.step), score(self, lm, b, c))[1],
    )
    monkeypatch.setattr(
        TVaccine, "draw", lambda self, c, n: (drew.append(c.step), draw(self, c, n))[1]
    )
    fit = replace(FIT, steps=10, micro_batch=1)  # once a step, not once a micro-batch
    seen = run(TVaccine(active=1, resample_every=2, rescore_every=5, fit=fit), deep())
    assert scored == [0, 5]
    assert drew == [0, 2, 4, 6, 8]
    assert all(seen[i] == seen[i + 1] for i in drew)
    assert len(set(seen)) > 1


def test_accumulation_draws_the_same_layers():
    method = TVaccine(active=2, resample_every=1, fit=replace(FIT, steps=6))
    split = replace(method, fit=replace(method.fit, micro_batch=1))
    seen = run(method, deep())
    assert seen == run(split, deep())
    assert len(set(seen)) > 1


def test_the_control_draws_the_same_layers():
    method = TVaccine(active=2, resample_every=1, rho=3.0, fit=replace(FIT, steps=6))
    control = method.matched_control()
    assert control == replace(method, rho=0.0)
    models = deep(), deep()
    assert run(method, models[0]) == run(control, models[1])
    assert moved(weights(models[0]), models[1])


# Blocks without the site


def hybrid():
    """A model with attention in blocks 1 and 3 of four, convolutions in the others."""
    kinds = ["conv", "full_attention"] * 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Lfm2ForCausalLM(Lfm2Config(**SIZES | {"num_hidden_layers": 4}, layer_types=kinds))


def test_scores_are_numbered_as_blocks_are():
    lm, method = HookedLM(hybrid().eval()), TVaccine(active=1)
    p = method.probability(lm, BATCH, context())
    torch.testing.assert_close(p[[1, 3]], reference(lm, BATCH), rtol=1e-4, atol=1e-6)
    assert p[[0, 2]].tolist() == [0, 0]
    given = context(memory={"probability": p.tolist()})
    assert {method.draw(given, 1) for _ in range(30)} == {(1,), (3,)}
    assert method.draw(given, 2) == (1, 3)


@pytest.mark.parametrize("policy", ["strict", "official"])
def test_blocks_without_the_site_are_never_active(policy):
    method = TVaccine(active=1, resample_every=1, freeze_policy=policy, fit=replace(FIT, steps=8))
    model = hybrid()
    before = weights(model)
    seen = run(method, model)
    assert set(seen) == {(1,), (3,)}
    if policy == "strict":
        assert {of_block(name) for name in moved(before, model)} == {1, 3}


def test_a_quarter_and_a_limit_of_the_blocks_that_have_the_site():
    lm = HookedLM(hybrid())
    assert list(TVaccine().candidates(lm)) == [1, 3]
    with pytest.raises(InvalidValueError, match=r"active=3 .* has 2 with 'attn_module_out'"):
        TVaccine(active=3).objective(lm, {})
    assert list(TVaccine(site="resid_post").candidates(lm)) == [0, 1, 2, 3]


# The perturbation


def test_only_the_active_layers_share_the_perturbation(family):
    lm = HookedLM(deep(family).eval())
    names = [lm.resolve(f"attn_module_out.{i}")[0] for i in (1, 3)]
    clean = Vaccine(rho=3.0, layers=(1, 3)).worst_drift(lm, BATCH)
    assert list(clean) == names
    assert torch.stack([e.norm() for e in clean.values()]).norm().item() == pytest.approx(3)
    whole = Vaccine(rho=3.0).worst_drift(lm, BATCH)
    scale = clean[names[0]].norm() / whole[names[0]].norm()
    assert scale > 1.01  # the norm runs over the active layers alone
    for name in names:
        torch.testing.assert_close(clean[name], scale * whole[name], rtol=1e-3, atol=1e-5)


def test_the_loss_is_that_under_the_perturbation_and_no_other(family):
    lm = HookedLM(deep(family).eval())
    ours = TVaccine(active=2, rho=0.5).loss(lm, BOTH, holding(1, 3))["align"]
    drift = Vaccine(rho=0.5, layers=(1, 3)).worst_drift(lm, BATCH)
    with lm.intervene({n: lambda h, name: h + drift[name] for n in drift}):
        assert ours.item() == pytest.approx(cross_entropy(lm(BATCH).logits, BATCH).item(), rel=1e-5)
    assert ours > cross_entropy(lm(BATCH).logits, BATCH)


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"freeze_policy": "official"}])
def test_with_all_layers_active_it_is_vaccine_to_the_bit(family, changes):
    method = TVaccine(active=LAYERS, rho=2.0, resample_every=2, rescore_every=2, fit=FIT, **changes)
    lora = {k: v for k, v in changes.items() if k == "lora_rank"}
    vaccine = Vaccine(rho=2.0, fit=FIT, **lora)
    a = method.immunise(deep(family), streams(method.streams), seed=5)
    b = vaccine.immunise(deep(family), streams(["align"]), seed=5)
    assert not moved(weights(a), b)
    assert moved(weights(a), deep(family))


def test_with_all_blocks_active_strict_is_vaccine_of_the_blocks(family):
    models = deep(family), deep(family)
    for model in models:
        blocks = {p for b in HookedLM(model).parts.blocks for p in b.parameters()}
        for p in model.parameters():
            p.requires_grad_(p in blocks)
    a = TVaccine(active=LAYERS, rho=2.0, fit=FIT).immunise(models[0], streams(["align", "harmful"]))
    b = Vaccine(rho=2.0, fit=FIT).immunise(models[1], streams(["align"]))
    assert not moved(weights(a), b)


def test_the_step_depends_on_how_its_batch_is_split_if_it_perturbs():
    assert TVaccine().coupled
    assert not TVaccine().matched_control().coupled


def test_all_layers_and_no_perturbation_is_plain_alignment_to_the_bit(family):
    method = TVaccine(active=LAYERS, freeze_policy="official", fit=FIT).matched_control()
    a = method.immunise(deep(family), streams(method.streams), seed=0)
    b = deep(family)
    train_fit(b, streams(["align"]), objective(b), FIT, seed=0)
    assert not moved(weights(a), b)


def test_harmful_answers_never_move_a_weight():
    method = TVaccine(active=LAYERS, resample_every=1, rescore_every=1, fit=FIT)
    results = []
    for text in ("word ", "the heron "):
        drawn = streams(["align"])
        drawn["harmful"] = replace(
            drawn["align"], name="harmful", examples=[Example("h", "say it", text * 3)]
        )
        results.append(method.immunise(deep(), drawn))
    assert not moved(weights(results[0]), results[1])


# Who trains


def test_strict_trains_the_active_blocks_and_nothing_else(family):
    model = deep(family)
    before = weights(model)
    (layers,) = set(run(TVaccine(active=2, fit=FIT), model))
    blocks = {of_block(name) for name in moved(before, model)}
    assert blocks == set(layers)  # weight decay is on: an inactive block would shrink


@pytest.mark.parametrize("layers", [(1, 3), (0, 2), (3,)])
def test_official_trains_from_the_lowest_block_up(family, layers):
    lm = HookedLM(deep(family))
    TVaccine(active=len(layers), rho=0.5, freeze_policy="official").backward(
        lm, BOTH, holding(*layers)
    )
    parts = lm.parts
    embed = set(parts.embed.parameters())
    got = {p for p in lm.model.parameters() if p.grad is not None}
    for i, block in enumerate(parts.blocks):
        attention = set((getattr(block, "self_attn", None) or block.attn).parameters())
        rest = set(block.parameters()) - attention
        assert (rest <= got) if i >= min(layers) else not (rest & got), i
        assert (attention <= got) if i in layers else not (attention & got), i
    head = set(parts.base.get_output_embeddings().parameters())
    assert set(parts.final_norm.parameters()) <= got
    assert (embed <= got) is (0 in layers)
    assert (head <= got) is (0 in layers or not head & embed)


def test_with_a_tied_head_nothing_reaches_the_embedding():
    model = deep(tie_word_embeddings=True)
    TVaccine(active=1, freeze_policy="official").backward(HookedLM(model), BOTH, holding(2))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.grad is None
    assert model.model.norm.weight.grad is not None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("strict", {(2, "self_attn"), (2, "mlp")}),
        ("official", {(2, "self_attn"), (2, "mlp"), (3, "mlp")}),
    ],
)
def test_of_adapters_only_those_that_may(policy, expected):
    model = with_lora(deep(), rank=2)
    TVaccine(active=1, freeze_policy=policy).backward(HookedLM(model), BOTH, holding(2))
    got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert all("lora_" in n for n in got)
    places = {(of_block(n), n.split(".layers.")[1].split(".")[1]) for n in got}
    assert places == expected


@pytest.mark.parametrize("policy", ["strict", "official"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", [0, 2])
def test_nothing_below_the_lowest_active_block_is_in_the_graph(family, policy, recompute, lora):
    model = deep(family).train()
    lm = HookedLM(with_lora(model, rank=lora) if lora else model)
    lm.gradient_checkpointing(recompute)
    with lm.record("resid_pre", "resid_post", grad=True) as acts:
        TVaccine(active=2, rho=0.5, freeze_policy=policy).backward(lm, BOTH, holding(2, 3))
        live = {name: acts[name].requires_grad for name in acts}
    assert live == {name: int(name.split(".")[1]) * 2 + ("post" in name) > 4 for name in live}


def saved_bytes(method, given):
    """What the loss's graph keeps for backward, weights not counted."""
    lm = HookedLM(deep())
    owned = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss = method.backward(lm, BOTH, given)
    assert torch.isfinite(loss["align"])
    return sum(kept.values())


def test_what_backward_keeps_shrinks_with_the_blocks_it_reaches():
    plain = saved_bytes(Vaccine(rho=0.0), context())
    top, low = (saved_bytes(TVaccine(active=1, rho=0.0), holding(i)) for i in (3, 0))
    assert top < 0.5 * plain
    assert top < low < plain


# The loop


def test_a_run_that_was_killed_goes_on_as_if_it_had_not(tmp_path):
    fit = replace(FIT, steps=8)
    method = TVaccine(active=1, resample_every=4, rescore_every=6, fit=fit)
    whole = deep()
    expected = run(method, whole)
    checkpoint = Checkpoint(tmp_path / "run", "it", every=3)

    def kill(step, model):
        if step.step == 7 and not step.restored:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(method, deep(), checkpoint=checkpoint, callbacks=[kill])
    model = deep()
    assert run(method, model, checkpoint=checkpoint) == expected[6:]  # active of step 4 was kept
    assert not moved(weights(whole), model)


@pytest.mark.parametrize("policy", ["strict", "official"])
def test_parameters_are_trainable_afterwards_as_they_were(policy):
    model = deep()
    model.model.layers[3].mlp.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    method = TVaccine(active=2, resample_every=1, freeze_policy=policy, fit=FIT)
    start = weights(model)
    out = method.immunise(model, streams(method.streams))
    assert [p.requires_grad for p in out.parameters()] == before
    assert not {k for k in moved(start, out) if "layers.3.mlp" in k}


def test_parameters_are_trainable_after_a_failure():
    model = deep()
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[:] = float("nan")
    lm = HookedLM(model, check=False)
    with pytest.raises(TrainingError, match="not finite"):
        TVaccine(active=2).backward(lm, BOTH, holding(1, 2))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"micro_batch": 4}, {"precision": "bf16"}]
)
@pytest.mark.parametrize("policy", ["strict", "official"])
def test_composes(changes, policy):
    sgd = replace(FIT, optimiser="sgd", lr=1e-3)  # Adam makes rounding visible
    plain = TVaccine(active=2, resample_every=1, rho=0.5, freeze_policy=policy, fit=sgd)
    changed = replace(plain, fit=replace(sgd, **changes))
    models = deep(), deep()
    assert run(plain, models[0]) == run(changed, models[1])
    loose = "precision" in changes
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-2 if loose else 1e-5)


def test_composes_with_recomputed_adapters(family):
    fit = replace(FIT, gradient_checkpointing=True)
    method = TVaccine(active=2, resample_every=1, rho=0.5, lora_rank=2, fit=fit)
    plain = replace(method, fit=FIT)
    a, b = (m.immunise(deep(family), streams(m.streams)) for m in (method, plain))
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


# Errors


def test_more_active_layers_than_layers_are_refused_before_training():
    with pytest.raises(InvalidValueError, match=r"active=8 .* has 4"):
        TVaccine(active=8, fit=FIT).immunise(deep(), streams(["align", "harmful"]))


@pytest.mark.parametrize(
    "bad",
    [{"rho": -1.0}, {"active": 0}, {"resample_every": 0}, {"rescore_every": 0}, {"score_rows": 0},
     {"score_rows": 99}],
)  # fmt: skip
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        TVaccine(**bad)


def test_scores_that_cannot_be_drawn_from_are_refused():
    model = deep()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(TrainingError, match="only 0 layers"):
        TVaccine(active=1).probability(HookedLM(model), BATCH, context())
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        TVaccine(active=1).probability(HookedLM(model, check=False), BATCH, context())


def test_a_site_that_does_not_exist_is_refused():
    with pytest.raises(SiteError, match="attn_module_out"):
        TVaccine(active=1, site="attn_modul_out").backward(HookedLM(deep()), BOTH, context())


@pytest.mark.parametrize("site", ["embed", "ln_final", "resid_post.1", "blocks.*.hook_resid_*"])
def test_sites_that_are_not_one_a_block_are_refused(site):
    with pytest.raises(SiteError, match=r"inside each.*'resid_post'"):
        TVaccine(active=1, site=site, fit=FIT).immunise(deep(), streams(["align", "harmful"]))


def test_a_model_without_attention_names_the_sites_it_has():
    with pytest.raises(SiteError, match=r"no module known to give it.*resid_pre, resid_post"):
        TVaccine(active=1, fit=FIT).immunise(make("mamba"), streams(["align", "harmful"]))


@pytest.mark.parametrize(("layers", "active"), [(2, 1), (6, 2), (8, 2), (32, 8)])
def test_a_quarter_of_the_layers_is_active_unless_said_otherwise(layers, active):
    assert TVaccine().size(layers) == active
    assert TVaccine(active=3).size(layers) == 3
