"""Drift: closed forms, and what must show nothing."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import UnknownNameError
from workbench.probes import Drift
from workbench.probes.drift import by_token, distances


@pytest.fixture(params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


def test_a_model_against_itself_has_not_moved(pair):
    for row in rows_of(Drift(), pair[0], pair[0]):
        assert row.values == [0.0] * len(row.values)


def test_drift_equals_the_obvious_computation(pair):
    found = rows_of(Drift(sites=("resid_post",), positions="all"), *pair)
    one = panel().batch("hazard").rows([2])
    rows = {r.measure: r for r in found if r.example == one.examples[0]}
    now, then = (HookedLM(m) for m in pair)
    with now.record("resid_post") as a:
        now(one)
    with then.record("resid_post") as b:
        then(one)
    for layer, name in enumerate(now.resolve("resid_post")):
        x, y = a[name][0].double(), b[name][0].double()
        l2 = [(s - t).norm().item() for s, t in zip(x, y, strict=True)]
        relative = [d / t.norm().item() for d, t in zip(l2, y, strict=True)]
        cosine = [1 - F.cosine_similarity(s, t, dim=0).item() for s, t in zip(x, y, strict=True)]
        assert rows["l2"].values[layer] == pytest.approx(sum(l2) / len(l2), rel=1e-3)
        assert rows["relative_l2"].values[layer] == pytest.approx(sum(relative) / len(l2), rel=1e-3)
        assert rows["cosine_distance"].values[layer] == pytest.approx(
            sum(cosine) / len(l2), rel=1e-3
        )


def test_an_adapter_that_does_nothing_has_no_drift():
    from workbench.adapters import with_lora

    plain = tiny.llama().eval()
    adapted = with_lora(tiny.llama(), rank=2, alpha=4.0).eval()
    for row in rows_of(Drift(), adapted, plain):
        assert row.values == [0.0] * len(row.values)


def test_rounding_never_makes_a_cosine_distance_less_than_none_or_more_than_all():
    """In fp32 the cosine with a multiple of itself is above 1 by rounding, now and then."""
    then = torch.randn(1, 500, 64, generator=torch.Generator().manual_seed(0))
    for factor, expected in ((2.0, 0.0), (-2.0, 2.0)):
        found = by_token(factor * then, then)["cosine_distance"]
        assert 0 <= found.min() <= found.max() <= 2
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-6, rtol=0)
    assert by_token(torch.full_like(then, float("nan")), then)["cosine_distance"].isnan().all()


def test_scaling_the_shift_scales_the_drift():
    """Where the path from weights to stream is linear, drift of θ + 2Δ is twice that of θ + Δ."""
    plain, once, twice = (tiny.llama().eval() for _ in range(3))
    for model, factor in ((once, 1.0), (twice, 2.0)):
        with torch.no_grad():
            model.model.layers[-1].mlp.down_proj.weight.add_(0.01 * factor)
    a, b = (rows_of(Drift(sites=("resid_post",)), m, plain) for m in (once, twice))
    for x, y in zip(a, b, strict=True):
        if x.measure == "l2":
            assert x.values[:-1] == [0.0] * (len(x.values) - 1)
            assert y.values[-1] == pytest.approx(2 * x.values[-1], rel=1e-3)


def test_unknown_positions_are_refused(pair):
    with pytest.raises((UnknownNameError, TypeCheckError), match="last_prompt"):
        rows_of(Drift(positions="last_promt"), *pair)


def test_the_sum_of_squares_is_what_the_released_code_adds_up_without_the_padding(pair):
    """Σ over layers and tokens of ‖A − A_ref‖², with hooks of torch on the attention modules."""
    now, then = pair
    rows = rows_of(Drift(sites=("attn_module_out",), positions="all", sums=True), now, then)
    ours = sum(sum(r.values) for r in rows if r.measure == "sum_sq")

    def outputs(model, batch):
        found, handles = [], []

        def keep(module, inputs, out):
            found.append(out[0] if isinstance(out, tuple) else out)

        for name, module in model.named_modules():
            if name.endswith(("self_attn", ".attn")):
                handles.append(module.register_forward_hook(keep))
        with torch.no_grad():
            HookedLM(model, check=False)(batch)
        for handle in handles:
            handle.remove()
        return found

    total = 0.0
    for group in ("hazard", "benign"):
        batch = panel().batch(group)
        for i in range(len(batch)):
            one = batch.rows([i])
            for a, b in zip(outputs(now, one), outputs(then, one), strict=True):
                total += float((a - b)[one.attention_mask].double().square().sum())
    assert ours == pytest.approx(total, rel=1e-3)


def test_sums_are_sums_over_tokens_of_squared_distances(pair):
    probe = Drift(sites=("resid_post",), positions="response", sums=True)
    now, then = (probe._read(m, panel())["hazard", "resid_post"] for m in pair)
    tokens = by_token(now.values, then.values)["l2"]
    found = distances(now, then)
    start = 0
    for i, length in enumerate(now.lengths):
        for layer in range(len(now.layers)):
            each = tokens[layer, start : start + length].tolist()
            assert found["sum_sq"][layer, i] == pytest.approx(sum(x * x for x in each), rel=1e-4)
            assert found["l2"][layer, i] == pytest.approx(sum(each) / length, rel=1e-4)
        start += length
    moved = replace(now, values=then.values + 2 * (now.values - then.values))
    twice = distances(moved, then)["sum_sq"]
    assert torch.allclose(twice, 4 * found["sum_sq"], rtol=1e-3)


def test_only_who_asks_gets_sums(pair):
    assert "sum_sq" not in {r.measure for r in rows_of(Drift(), *pair)}
    assert "sum_sq" in {r.measure for r in rows_of(Drift(sums=True), *pair)}


def test_drift_at_an_adapted_projection_is_b_a_x():
    """The attention's output projection alone is adapted, in the first block: Δ = s·B(Ax)."""
    plain = tiny.llama().eval()
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["o_proj"], layers_to_transform=[0])
    adapted = get_peft_model(tiny.llama(), config).eval()
    projection = adapted.base_model.model.model.layers[0].self_attn.o_proj
    a, b = projection.lora_A["default"].weight, projection.lora_B["default"].weight
    with torch.no_grad():
        b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(0)))
    batch = panel().batch("hazard").rows([3])
    seen = []
    handle = plain.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][0])
    )
    with torch.no_grad():
        HookedLM(plain, check=False)(batch)
        delta = 3 * (seen[0] @ a.T @ b.T)
    handle.remove()
    probe = Drift(sites=("attn_module_out",), positions="all")
    found = {
        r.measure: r
        for r in rows_of(probe, adapted, plain)
        if r.group == "hazard" and r.example == batch.examples[0]
    }
    assert found["l2"].values[0] == pytest.approx(delta.norm(dim=-1).mean().item(), rel=1e-4)
