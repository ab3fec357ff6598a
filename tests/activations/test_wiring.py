import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
)

from tests import tiny
from tests.activations.models import batch, hook_count
from workbench.activations import HookedLM
from workbench.activations.wiring import fitted_scale, mismatch
from workbench.errors import SiteError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": tiny.VOCABULARY,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NEOX = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
OTHERS = {
    "gemma2": Gemma2Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES),
    "olmo2": Olmo2Config(**SIZES),
    "phi3": Phi3Config(**SIZES),
}


def make(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_is_dropped_in_the_main_families(family):
    assert HookedLM(tiny.FAMILIES[family]()).dropped == {}


@pytest.mark.parametrize("family", OTHERS)
def test_nothing_is_dropped_in_related_families(family):
    assert HookedLM(make(OTHERS[family])).dropped == {}


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox_has_a_middle_of_the_stream_only_without_parallel_blocks(parallel):
    lm = HookedLM(make(GPTNeoXConfig(**NEOX, use_parallel_residual=parallel)))
    dropped = {"blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"} if parallel else set()
    assert set(lm.dropped) == dropped


def test_contributions_that_are_scaled_after_their_module_are_dropped_with_the_reason():
    lm = HookedLM(make(GraniteConfig(**SIZES, residual_multiplier=0.22)))
    gone = {"attn_out", "mlp_out"}
    assert set(lm.dropped) == {f"blocks.{i}.hook_{s}" for i in range(2) for s in gone}
    assert lm.resolve("resid_post.0") == ("blocks.0.hook_resid_post",)
    with pytest.raises(SiteError, match=r"0\.22 times .* not resid_pre \+ attn_out \+ mlp_out"):
        lm.resolve("attn_out")


def test_missing_modules_are_named():
    config = OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=99
    )
    lm = HookedLM(make(config))
    assert "blocks.0.hook_attn_out" in lm.sites
    with pytest.raises(SiteError, match="OPTDecoderLayer has no module known to give it"):
        lm.resolve("mlp_out")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_stream_adds_up_on_a_real_batch(family):
    lm = HookedLM(tiny.FAMILIES[family]())
    with torch.no_grad(), lm.record("*") as acts:
        lm(batch())
    for i in range(2):
        at = {name: acts[f"blocks.{i}.hook_{name}"] for name in _BLOCK}
        middle = at["resid_pre"] + at["attn_out"]
        torch.testing.assert_close(middle, at["resid_mid"])
        torch.testing.assert_close(middle + at["mlp_out"], at["resid_post"])


_BLOCK = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def test_module_outputs_differ_from_contributions_only_under_post_norms():
    for family, make_model in tiny.FAMILIES.items():
        lm = HookedLM(make_model())
        with torch.no_grad(), lm.record("attn_out.0", "attn_module_out.0") as acts:
            lm(batch())
        contribution, module = acts.values()
        assert torch.equal(contribution, module) == (family != "gemma3")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_stream_equals_transformers_hidden_states(family):
    lm = HookedLM(tiny.FAMILIES[family]())
    with torch.no_grad(), lm.record("resid_pre", "resid_post", "ln_final") as acts:
        states = lm(batch(), output_hidden_states=True).hidden_states
    assert torch.equal(acts["blocks.0.hook_resid_pre"], states[0])
    assert torch.equal(acts["blocks.0.hook_resid_post"], states[1])
    assert torch.equal(acts["blocks.1.hook_resid_pre"], states[1])
    assert torch.equal(acts["ln_final.hook_out"], states[2])  # transformers norms its last one


def test_half_precision_is_not_mistaken_for_a_wrong_wiring():
    for make_model in tiny.FAMILIES.values():
        assert HookedLM(make_model().to(torch.bfloat16)).dropped == {}


def test_rounding_is_measured_token_by_token():
    size = torch.tensor([1e6, 1.0])[:, None]
    stream, added = torch.ones(2, 4) * size, torch.full((2, 4), 0.5)
    total = (stream + added).bfloat16().float()
    assert mismatch([stream, added], total, torch.bfloat16) <= 0
    wrong = total + torch.tensor([0.0, 0.25])[:, None]  # nothing beside the first token's norm
    assert mismatch([stream, added], wrong, torch.bfloat16) > 0.4
    wrong[0, 0] = float("nan")
    assert math.isnan(mismatch([stream, added], wrong, torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tokens_without_a_norm_add_up(dtype):
    none = torch.zeros(2, 4)
    assert mismatch([none, none], none, dtype) <= 0
    least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # half of it has no number of its own
    term = torch.tensor([[0.0] * 4, [least] * 4])
    assert mismatch([none, term], none, dtype) <= 0
    assert mismatch([none, none], none + 1, dtype) > 1


def test_the_scale_is_fitted_to_all_tokens_alike():
    given = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([1e6] + [1.0] * 7)[:, None]
    after = (sizes + 0.22 * given).bfloat16()
    acts = {"resid_pre": sizes.expand(8, 16), "attn_out": given, "mlp_out": 0 * given}
    assert fitted_scale("", acts | {"resid_post": after}) == pytest.approx(0.22, abs=0.01)
    nothing = dict.fromkeys([*acts, "resid_post"], torch.zeros(8, 16))
    assert fitted_scale("", nothing) == 0


def test_construction_leaves_modes_random_numbers_and_hooks_alone():
    model = tiny.gpt2().train()
    model.transformer.h[1].attn.eval()
    modes = [m.training for m in model.modules()]
    state, hooks = torch.get_rng_state(), hook_count(model)
    HookedLM(model)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert hook_count(model) == hooks
    assert all(p.grad is None for p in model.parameters())


def test_weights_that_are_not_numbers_are_noticed():
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    lm = HookedLM(model)
    assert set(lm.dropped) == {"blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"}
    assert "relative error nan" in lm.dropped["blocks.1.hook_mlp_out"]


def test_a_stream_that_does_not_add_up_says_by_how_much():
    model = make(MistralConfig(**SIZES))
    block = model.model.layers[1]
    block.mlp.register_forward_hook(lambda m, args, out: out * torch.arange(32))
    lm = HookedLM(model)
    assert lm.dropped == {}  # the hook belongs to the model: what it makes is what is added
    block.register_forward_hook(lambda m, args, out: out * torch.arange(32))
    with pytest.raises(SiteError, match=r"not resid_post \(relative error .*not known"):
        HookedLM(model).resolve("mlp_out.1")
