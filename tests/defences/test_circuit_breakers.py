"""Circuit breakers' invariants: what the terms are, how they are weighed, where training starts."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.test_defences import streams
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, Example, encode
from workbench.defences._rerouting import directions, drift, similarity, turned
from workbench.defences.circuit_breakers import CircuitBreakers
from workbench.defences.references import reference
from workbench.errors import InvalidValueError, SiteError
from workbench.optimisation import OPTIMISERS, Fit
from workbench.training import Context

FIT = Fit(steps=4, lr=1e-2, batch_size=4, warmup=0, schedule="constant")
TEXTS = {
    name: [Example(str(i), f"{name} {i} " * (i + 1), "word " * (4 - i)) for i in range(4)]
    for name in ("harmful", "retain")
}
BATCHES = {name: encode(tiny.tokenizer(), texts) for name, texts in TEXTS.items()}
SITE = "blocks.0.hook_resid_post"


@pytest.fixture(params=tiny.FAMILIES)
def family(request):
    return request.param


def calm(model):
    """A model without dropout."""
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    return model


def context(step=0, steps=10, micro_batch=None, seed=0):
    made = torch.Generator().manual_seed(seed)
    return Context(step, steps, made, Accelerator(), micro_batch)


def prepared(method, model, moved=False):
    """The model hooked, and the method's step; `moved` away from the start where it says."""
    model = calm(model)
    if method.lora_rank:
        model = with_lora(model, rank=method.lora_rank)
    lm = HookedLM(model)
    ours = method.lora_rank > 0
    start = reference(method.reference, lm, method.readings(lm), {}, FIT, own_adapters=ours)
    if moved:
        drawn = torch.Generator().manual_seed(5)
        for p in lm.model.parameters():
            if p.requires_grad:
                p.data.add_(0.05 * torch.randn(p.shape, generator=drawn))
    return lm, start


def step(method, model, batches=BATCHES, moved=False, **at):
    """One step's terms and gradients."""
    lm, start = prepared(method, model, moved)
    losses = method.backward(lm, batches, context(**at), start)
    return losses, {n: p.grad for n, p in lm.model.named_parameters()}


def rows(*values):
    return {SITE: torch.tensor(values)}


def test_similarity_is_between_0_and_1_and_ignores_scale():
    made = torch.Generator().manual_seed(0)
    for _ in range(20):
        live, goal = ({SITE: torch.randn(9, 6, generator=made)} for _ in "ab")
        value = similarity(live, goal)
        assert 0 <= value <= 1
        torch.testing.assert_close(similarity({SITE: 7 * live[SITE]}, goal), value)
        torch.testing.assert_close(similarity(live, {SITE: 0.1 * goal[SITE]}), value)
    assert float(similarity(goal, goal)) == pytest.approx(1)
    assert float(similarity({SITE: -goal[SITE]}, goal)) == 0


def test_similarity_has_no_gradient_where_the_cosine_is_not_positive():
    live = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    similarity({SITE: live}, {SITE: torch.tensor([[1.0, 0.0]] * 4)}).backward()
    assert live.grad[0].abs().sum() > 0
    assert not live.grad[1:].any()


def test_similarity_is_a_mean_over_tokens_and_sites():
    live, goal = rows([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]), rows(*[[1.0, 0.0]] * 3)
    assert float(similarity(live, goal)) == pytest.approx((1 + 0 + 0.5**0.5) / 3)
    both = similarity(live | {"x": goal[SITE]}, goal | {"x": goal[SITE]})
    assert float(both) == pytest.approx(((1 + 0.5**0.5) / 3 + 1) / 2)


def test_drift_is_the_distance_and_zero_only_where_nothing_moved():
    held, live = rows([3.0, 4.0], [0.0, 2.0]), rows([3.0, 4.0], [3.0, 6.0])
    assert float(drift(live, held, 2)) == pytest.approx(2.5)
    assert float(drift(live, held, 2, relative=True)) == pytest.approx(1.25)
    assert float(drift(live, held, 5)) == pytest.approx(1.0)
    assert float(drift(held, held, 2)) == 0


def test_zero_vectors_give_numbers():
    zero, other = torch.zeros(3, 4, requires_grad=True), torch.ones(3, 4)
    for held in (other, torch.zeros(3, 4)):
        terms = [similarity({SITE: zero}, {SITE: held}), drift({SITE: zero}, {SITE: held}, 3),
                 drift({SITE: zero}, {SITE: held}, 3, relative=True)]  # fmt: skip
        (grad,) = torch.autograd.grad(sum(terms), zero)
        assert torch.isfinite(torch.stack(terms)).all()
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("steps", [1, 7, 150])
def test_weights_sum_to_alpha_and_end_even(steps):
    method = CircuitBreakers(alpha=5.0)
    weights = [method.weights(t, steps) for t in range(1, steps + 1)]
    assert all(sum(pair) == pytest.approx(5) for pair in weights)
    assert all(0 <= retain <= reroute for reroute, retain in weights)
    assert weights[-1] == pytest.approx((2.5, 2.5))
    assert weights[0] == pytest.approx((5 * (1 - 1 / (2 * steps)), 5 / (2 * steps)))
    assert method.weights(3 * steps, steps) == (0, 5)  # beyond the end: never negative


def test_the_schedule_counts_optimiser_steps_not_micro_batches():
    seen = {}
    for size in (None, 1):
        fit, log = replace(FIT, micro_batch=size, lr=1e-9), []
        CircuitBreakers(fit=fit).immunise(
            tiny.llama(),
            streams(["harmful", "retain"]),
            callbacks=[lambda s, model, log=log: log.append(s.losses["reroute"])],
        )
        seen[size] = log
    expected = [CircuitBreakers().weights(t, FIT.steps)[0] for t in range(1, FIT.steps + 1)]
    assert seen[None] == pytest.approx(expected, rel=1e-5)  # it has not moved, so L_s is 1
    assert seen[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("truncate", [True, False])
def test_the_start_is_a_tie(family, lora_rank, truncate):
    method = CircuitBreakers(lora_rank=lora_rank, truncate=truncate, tie_break=0.0)
    losses, grads = step(method, tiny.FAMILIES[family](), steps=150)
    assert float(losses["reroute"]) == pytest.approx(10 * (1 - 1 / 300), rel=1e-6)
    assert float(losses["retain"]) == 0
    norms = torch.stack([g.norm() for g in grads.values() if g is not None])
    assert norms.norm() < 1e-5  # rounding; finite


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_tie_is_broken_in_proportion_by_seed_and_once(family, lora_rank):
    def gradient(size, **at):
        method = CircuitBreakers(lora_rank=lora_rank, tie_break=size)
        losses, grads = step(method, tiny.FAMILIES[family](), **at)
        reroute, _ = method.weights(at.get("step", 0) + 1, 10)
        assert float(losses["reroute"]) == pytest.approx(reroute, rel=1e-5)
        return torch.cat([g.flatten() for g in grads.values() if g is not None])

    small, large = gradient(1e-3), gradient(2e-3)
    assert small.norm() > 1e-4
    assert float(large.norm()) == pytest.approx(2 * float(small.norm()), rel=1e-2)
    assert torch.equal(gradient(1e-3), small)
    assert torch.cosine_similarity(gradient(1e-3, seed=1), small, dim=0) < 0.9
    assert gradient(1e-3, step=1).norm() < 1e-5


def test_the_first_step_leads_away_from_the_direction():
    goal = {SITE: torch.randn(5, 6, generator=torch.Generator().manual_seed(0))}
    live = goal[SITE].clone().requires_grad_()
    towards = directions((SITE,), 6, 1e-2, torch.Generator().manual_seed(1))
    assert float(towards[SITE].norm()) == pytest.approx(1e-2)
    away = turned(goal, towards)
    similarity({SITE: live}, away).backward()
    assert ((-live.grad * towards[SITE]).sum(-1) < 0).all()
    tangent = (away[SITE] - goal[SITE]).norm(dim=-1) / goal[SITE].norm(dim=-1)
    torch.testing.assert_close(tangent, torch.full((5,), 1e-2))
    assert turned(goal, {})[SITE] is goal[SITE]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_moves_from_the_first_step_and_goes_on(family, lora_rank):
    log = []
    method = CircuitBreakers(fit=replace(FIT, steps=60), lora_rank=lora_rank, distance="relative")
    method.immunise(
        calm(tiny.FAMILIES[family]()),
        streams(["harmful", "retain"]),
        callbacks=[lambda s, model: log.append(s)],
    )
    similar = [s.losses["reroute"] / method.weights(s.step, 60)[0] for s in log]
    drifted = [s.losses["retain"] for s in log]
    assert log[0].grad_norm > 1e-4
    assert similar[0] == pytest.approx(1, abs=1e-5)
    assert drifted[0] == 0 < drifted[1]
    assert similar[1] < 1
    assert min(similar) < 0.5


def test_only_adapters_change_and_none_above_the_rerouted_blocks():
    method = CircuitBreakers(layers=(0,), lora_rank=2)
    _, grads = step(method, tiny.llama(), moved=True)
    given = {n for n, g in grads.items() if g is not None and g.any()}
    assert given
    assert all("lora" in n and "layers.0." in n for n in given)


def test_truncation_trains_nothing_above_and_without_it_all_of_the_stream():
    for truncate in (True, False):
        method = CircuitBreakers(layers=(0,), truncate=truncate, fit=FIT)
        out = method.immunise(tiny.llama(), streams(["harmful", "retain"]))
        changed = {
            n
            for (n, a), b in zip(out.named_parameters(), tiny.llama().parameters(), strict=True)
            if not torch.equal(a, b)
        }
        assert any("layers.0." in n for n in changed)
        assert any("layers.1." in n for n in changed) != truncate
        assert "lm_head.weight" not in changed


def test_what_is_retained_follows_hidden_states(family):
    lm = HookedLM(tiny.FAMILIES[family]())
    whole = CircuitBreakers(layers=(0,), truncate=False).readings(lm)["retain"]
    with torch.no_grad():
        states = lm(BATCHES["retain"], output_hidden_states=True).hidden_states
        found = [*whole.of(lm, BATCHES["retain"]).values()]
        part = CircuitBreakers(layers=(0,)).readings(lm)["retain"].of(lm, BATCHES["retain"])
    real = BATCHES["retain"].attention_mask
    assert len(found) == len(states) == 3
    assert all(torch.equal(a, s[real]) for a, s in zip(found, states, strict=True))
    assert all(torch.equal(a, s[real]) for a, s in zip(part.values(), states[:2], strict=True))


def test_what_padding_holds_and_where_it_is_does_not_matter(family):
    method, model = CircuitBreakers(), tiny.FAMILIES[family]
    plain, expected = step(method, model(), moved=True)

    def junk(x):
        ids = x.input_ids.where(x.attention_mask, torch.tensor(77))
        return Batch(ids, x.attention_mask, x.response_mask, x.examples)

    left = {name: encode(tiny.tokenizer(), texts, side="left") for name, texts in TEXTS.items()}
    for batches in ({name: junk(x) for name, x in BATCHES.items()}, left):
        losses, grads = step(method, model(), batches, moved=True)
        for term, value in losses.items():
            torch.testing.assert_close(value, plain[term], rtol=1e-4, atol=1e-5)
        for name, g in grads.items():
            torch.testing.assert_close(g, expected[name], rtol=1e-3, atol=1e-4)


def test_the_official_mask_differs_by_the_share_of_real_tokens():
    tokens, a = step(CircuitBreakers(), tiny.llama(), moved=True, step=5)
    official, b = step(CircuitBreakers(retain_mask="official"), tiny.llama(), moved=True, step=5)
    share = float(BATCHES["retain"].attention_mask.float().mean())
    assert share < 0.9
    assert float(official["retain"]) == pytest.approx(float(tokens["retain"]) * share, rel=1e-5)
    assert official["reroute"] == tokens["reroute"]
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(a[name], b[name])


@pytest.mark.parametrize("changes", [{}, {"retain_mask": "official"}, {"lora_rank": 2},
                                     {"distance": "relative"}])  # fmt: skip
@pytest.mark.parametrize("at", [0, 3])
def test_micro_batches_add_up_to_the_batch(family, changes, at):
    method, moved = CircuitBreakers(**changes), at > 0
    whole, expected = step(method, tiny.FAMILIES[family](), moved=moved, step=at)
    for size in (1, 2):
        losses, grads = step(
            method, tiny.FAMILIES[family](), moved=moved, step=at, micro_batch=size
        )
        for term, value in losses.items():
            torch.testing.assert_close(value, whole[term], rtol=1e-4, atol=1e-5)
        for name, g in grads.items():
            if g is not None:
                torch.testing.assert_close(g, expected[name], rtol=1e-3, atol=2e-4 if at else 1e-6)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_all_references_give_the_same_training(lora_rank):
    kinds = ["auto", "copy", "recorded"] + ["adapter"] * bool(lora_rank)
    runs = {
        kind: CircuitBreakers(
            reference=kind, lora_rank=lora_rank, fit=replace(FIT, lr=1e-3, optimiser="sgd")
        ).immunise(tiny.llama(), streams(["harmful", "retain"]))
        for kind in kinds
    }
    start = tiny.llama()
    for kind, run in runs.items():
        for a, b in zip(run.parameters(), runs["auto"].parameters(), strict=True):
            if kind == "recorded":
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
            else:
                assert torch.equal(a, b)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(runs["auto"].parameters(), start.parameters(), strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["auto", "copy"])
def test_nothing_has_drifted_at_the_start_in_any_precision(kind, precision):
    log = []
    CircuitBreakers(
        reference=kind, lora_rank=2, fit=replace(FIT, steps=1, precision=precision)
    ).immunise(
        tiny.llama(), streams(["harmful", "retain"]), callbacks=[lambda s, m: log.append(s.losses)]
    )
    assert log[0]["retain"] == 0


def test_gradient_checkpointing_gives_the_same_gradients(family):
    found = []
    for on in (False, True):
        lm, start = prepared(CircuitBreakers(), tiny.FAMILIES[family](), moved=True)
        lm.gradient_checkpointing(on)
        lm.model.train()
        CircuitBreakers().backward(lm, BATCHES, context(3), start)
        found.append([p.grad for p in lm.model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "lora_rank"),
    [("adapter", 2), ("copy", 0), ("copy", 2), ("recorded", 0), ("recorded", 2)],
)
def test_the_control_reroutes_nothing_and_stays_at_the_start(kind, lora_rank, precision):
    fit = replace(FIT, steps=12, precision=precision)
    method = CircuitBreakers(fit=fit, lora_rank=lora_rank, reference=kind)
    control, log = method.matched_control(), []
    assert control == replace(method, reroute=False)
    assert fit.optimiser == "adamw"  # which makes full steps of the smallest gradients
    out = control.immunise(
        tiny.llama(), streams(["harmful", "retain"]), callbacks=[lambda s, m: log.append(s.losses)]
    )
    assert log == [{"retain": 0.0}] * fit.steps
    start = tiny.llama()
    assert all(torch.equal(a, b) for a, b in zip(out.parameters(), start.parameters(), strict=True))


def test_rounding_is_no_drift_and_what_is_more_is():
    held = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    for relative in (False, True):
        for share, counts in ((1e-6, False), (1e-5, True)):
            live = (held * (1 + share)).requires_grad_()
            value = drift({SITE: live}, {SITE: held}, 2, relative=relative)
            (grad,) = torch.autograd.grad(value, live)
            assert (grad.abs().sum(-1) > 0).tolist() == [counts] * 2
            expected = share * (1 if relative else 505 / 2) if counts else 0
            assert float(value.detach()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["live", "held", "both"])
def test_drift_that_is_not_finite_is_not_taken_for_rounding(where, bad, relative):
    good, broken = rows([3.0, 4.0], [1.0, 2.0]), rows([3.0, 4.0], [bad, 2.0])
    live = good if where == "held" else broken
    held = good if where == "live" else broken
    assert not drift(live, held, 2, relative=relative).isfinite()


@pytest.mark.parametrize("kind", ["auto", "copy", "recorded"])
def test_adapters_that_a_model_came_with_belong_to_the_start(kind):
    """Switched off, they would leave another model than the one that training starts from."""
    log = []
    method = CircuitBreakers(reference=kind, fit=replace(FIT, steps=2))
    out = method.immunise(
        adapted(), streams(["harmful", "retain"]), callbacks=[lambda s, m: log.append(s.losses)]
    )
    assert log[0]["retain"] == 0
    assert log[0]["reroute"] == pytest.approx(method.weights(1, 2)[0], rel=1e-5)
    assert log[1]["retain"] > 0
    moved = {n for (n, a), b in zip(out.named_parameters(), adapted().parameters(), strict=True)
             if not torch.equal(a, b)}  # fmt: skip
    assert moved and all("lora_" in n for n in moved)


def test_adapters_that_a_model_came_with_cannot_be_the_reference():
    both = streams(["harmful", "retain"])
    with pytest.raises(InvalidValueError, match="the model came with are part of the start"):
        CircuitBreakers(reference="adapter", fit=FIT).immunise(adapted(), both)
    with pytest.raises(InvalidValueError, match=r"Merge those.*merge_lora.*lora_rank=0"):
        CircuitBreakers(lora_rank=2, fit=FIT).immunise(adapted(), both)


def adapted():
    """A model with adapters that do something, as one is that was loaded with them."""
    model, drawn = with_lora(tiny.llama(), rank=2), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=drawn))
    return model.eval()


@pytest.mark.parametrize(("n", "layers"), [(32, (9, 19)), (8, (1, 4)), (6, (1, 3)), (2, (0,))])
def test_default_layers_are_the_papers_shares_of_the_depth(n, layers):
    lm = HookedLM(tiny.llama(num_hidden_layers=n), check=False)
    assert CircuitBreakers().rerouted(lm) == layers
    reading = CircuitBreakers().readings(lm)
    assert reading["harmful"].blocks == reading["retain"].blocks == layers[-1] + 1
    assert len(reading["retain"].sites) == layers[-1] + 2


def test_bad_input_is_refused_with_advice():
    for bad in ({"alpha": 0.0}, {"alpha": float("inf")}, {"tie_break": -1.0}, {"layers": ()}):
        with pytest.raises(InvalidValueError, match=next(iter(bad))):
            CircuitBreakers(**bad)
    for layers in ((2,), (-1,)):
        with pytest.raises(SiteError, match="0 to 1"):
            CircuitBreakers(layers=layers).immunise(tiny.llama(), streams(["harmful", "retain"]))
    with pytest.raises(InvalidValueError, match="lora_rank"):
        CircuitBreakers(reference="adapter").immunise(tiny.llama(), streams(["harmful", "retain"]))


def test_alpha_is_a_factor_on_the_whole_loss_and_adam_divides_it_out_again(monkeypatch):
    """So α is no measure of intensity; the learning rate is. What is left is Adam's epsilon."""
    start = flat(calm(tiny.llama()))

    def moved(alpha, lr):
        method = CircuitBreakers(alpha=alpha, fit=replace(FIT, clip=None, lr=lr))
        return flat(method.immunise(calm(tiny.llama()), streams(TEXTS))) - start

    def without_epsilon(params, **kw):
        return torch.optim.AdamW(params, betas=(0.9, 0.98), eps=1e-20, **kw)

    assert not torch.equal(moved(10.0, 1e-3), moved(80.0, 1e-3))
    monkeypatch.setitem(OPTIMISERS, "adamw", without_epsilon)
    one = moved(10.0, 1e-3)
    assert torch.equal(one, moved(80.0, 1e-3))  # 8 is a power of two: not even rounding differs
    assert (one - moved(10.0, 1e-2)).norm() > one.norm()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
