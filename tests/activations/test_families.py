"""Every family: the residual stream exactly, and no name that means something else."""

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from tests import tiny
from tests.activations.families import (
    CONFIGS,
    HEADS,
    PARALLEL,
    RECURRENT,
    SCALED,
    SIZES,
    lacking,
    make,
)
from tests.activations.models import batch
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.errors import ModelError, SiteError

BLOCK = ("resid_pre", "attn_module_out", "attn_out", "resid_mid", "mlp_module_out", "mlp_out",
         "resid_post")  # fmt: skip


def recorded(lm, **kwargs):
    with torch.no_grad(), lm.record("*") as acts:
        out = lm(batch(), output_hidden_states=True, **kwargs)
    return acts, out.hidden_states


@pytest.mark.parametrize("family", CONFIGS)
def test_stream_is_transformers_own_to_the_bit_and_adds_up(family):
    lm = HookedLM(make(family))
    acts, states = recorded(lm)
    assert torch.equal(acts["blocks.0.hook_resid_pre"], states[0])
    for i in range(2):
        at = {
            name: acts[f"blocks.{i}.hook_{name}"] for name in BLOCK if name not in lacking(family)
        }
        assert torch.equal(at["resid_pre"], states[i])
        if i == 0:  # transformers norms its last one
            assert torch.equal(at["resid_post"], states[1])
        if "attn_out" in at and "mlp_out" in at:
            whole = at["resid_pre"] + at["attn_out"] + at["mlp_out"]
            torch.testing.assert_close(whole, at["resid_post"], rtol=1e-5, atol=1e-5)
        if "attn_out" in at and "resid_mid" in at:
            torch.testing.assert_close(at["resid_pre"] + at["attn_out"], at["resid_mid"])
    assert torch.equal(acts["ln_final.hook_out"], states[2])


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_missing_is_what_the_table_says(family):
    lm = HookedLM(make(family))
    gone = {f"blocks.{i}.hook_{name}" for i in range(2) for name in lacking(family)}
    assert set(lm.dropped) == gone
    assert (
        set(lm.sites)
        == {
            "hook_embed",
            "ln_final.hook_out",
            *(f"blocks.{i}.hook_{name}" for i in range(2) for name in BLOCK),
        }
        - gone
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_a_massive_token_hides_nothing_in_half_precision(family):
    """Attention sinks: what rounding does to one token must not excuse what the others show."""
    model = make(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] *= 1000  # the first of the dummy tokens
    lm = HookedLM(model.to(torch.bfloat16))
    assert {name.split("hook_")[-1] for name in lm.dropped} == lacking(family)
    assert len(lm.dropped) == 2 * len(lacking(family))


@pytest.mark.parametrize("family", sorted(PARALLEL))
def test_parallel_blocks_say_so(family):
    with pytest.raises(SiteError, match="side by side"):
        HookedLM(make(family)).resolve("resid_mid")


@pytest.mark.parametrize("family", sorted(SCALED))
def test_scaled_contributions_say_by_how_much(family):
    with pytest.raises(SiteError, match=r"adds 0.22 times what its modules give"):
        HookedLM(make(family)).resolve("attn_out")


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_residuals_added_inside_a_module_are_seen_through(family):
    """The module's own output is another thing than what it adds to the stream."""
    acts, _ = recorded(HookedLM(make(family)))
    given, added = acts["blocks.0.hook_mlp_module_out"], acts["blocks.0.hook_mlp_out"]
    torch.testing.assert_close(acts["blocks.0.hook_resid_mid"] + added, given)


@pytest.mark.parametrize("family", ["granite", "falcon", "bloom", "glm4", "gpt_neox", "mixtral"])
def test_edits_reach_the_answer(family):
    lm = HookedLM(make(family))
    with torch.no_grad():
        plain = lm(batch()).logits
        for site in lm.sites:
            with lm.intervene({site: lambda x, name: x + torch.linspace(0, 1, x.shape[-1])}):
                assert not torch.allclose(lm(batch()).logits, plain), site


@pytest.mark.parametrize("family", ["falcon", "phi3", "bloom", "mixtral", "olmo2", "gpt_neox"])
def test_adapters_change_no_name(family):
    plain = HookedLM(make(family))
    adapted = HookedLM(with_lora(make(family), rank=2))
    assert adapted.sites == plain.sites
    before, _ = recorded(plain)
    after, _ = recorded(adapted)  # a fresh adapter adds nothing
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_keep_the_stream_between_blocks(family):
    """Transformers lists the stream after each block here, not before."""
    lm = HookedLM(make(family))
    with torch.no_grad(), lm.record("*") as acts:
        out = lm.model(input_ids=batch().input_ids[:1, :5], output_hidden_states=True)
    assert {name.split("hook_")[-1] for name in lm.dropped} == {*BLOCK} - {
        "resid_pre",
        "resid_post",
    }
    assert torch.equal(acts["hook_embed"], acts["blocks.0.hook_resid_pre"])
    assert torch.equal(acts["blocks.0.hook_resid_post"], out.hidden_states[0])
    assert torch.equal(acts["blocks.1.hook_resid_pre"], out.hidden_states[0])
    with pytest.raises(SiteError, match="has no module known to give it"):
        lm.resolve("attn_out")


def test_language_part_of_a_multimodal_model_is_found_beside_a_tower_as_deep():
    text = transformers.Gemma3TextConfig(**SIZES | HEADS)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4
    )
    model = AutoModelForImageTextToText.from_config(config).eval()
    lm = HookedLM(model)
    assert lm.dropped == {}
    assert {type(block).__name__ for block in lm.parts.blocks} == {"Gemma3DecoderLayer"}
    with torch.no_grad(), lm.record("resid_post.0") as acts:
        states = lm(batch(), output_hidden_states=True).hidden_states
    assert torch.equal(acts["blocks.0.hook_resid_post"], states[1])


def test_encoder_decoders_are_refused():
    config = transformers.T5Config(
        d_model=32, d_ff=48, num_layers=2, num_heads=4, vocab_size=tiny.VOCABULARY
    )
    with pytest.raises(ModelError, match="encoder with a decoder"):
        HookedLM(transformers.T5ForConditionalGeneration(config))


def test_unknown_architectures_are_refused_in_one_line():
    class Unheard(torch.nn.Module):
        config = transformers.LlamaConfig(**SIZES)

        def get_input_embeddings(self):
            return torch.nn.Embedding(4, 4)

        def get_decoder(self):
            return torch.nn.Sequential(torch.nn.Linear(4, 4))

    with pytest.raises(ModelError, match="no list of 2 blocks in Sequential"):
        HookedLM(Unheard())


def test_models_that_need_more_than_tokens_are_refused():
    lm = tiny.llama()
    lm.forward = lambda input_ids, audio, use_cache: None
    with pytest.raises(ModelError, match=r"does not run on token ids alone.*audio"):
        HookedLM(lm)


UNLIKE = {"opt", "phimoe", "gpt_neo"}
"""OPT's MLP is no module, Phi-MoE is unknown there, GPT-Neo's attention is inside a wrapper."""


@pytest.mark.slow  # importing TransformerLens takes seconds
@pytest.mark.parametrize("family", sorted({*CONFIGS} - UNLIKE))
def test_modules_are_those_that_transformer_lens_names(family):
    """Its adapters were written by hand, one a family: an oracle for what we find by proof."""
    from transformer_lens.factories.architecture_adapter_factory import (
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    lm = HookedLM(make(family))
    (name,) = lm.model.config.architectures
    config = build_bridge_config_from_hf(lm.model.config, name, "local", torch.float32)
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    blocks = adapter.get_component_mapping()["blocks"]
    assert lm.model.get_submodule(f"{blocks.name}.0") is lm.parts.blocks[0]
    for short in ("attn_out", "mlp_out", "resid_mid"):
        theirs = blocks.hook_aliases.get(f"hook_{short}")
        if short in lacking(family):
            assert theirs is None, short
            continue
        if theirs is None and family in SCALED:
            continue
        path, _, side = theirs.rpartition(".hook_")
        component, module = blocks, lm.parts.blocks[0]
        for part in path.split("."):
            component = component.submodules[part]
            module = module.get_submodule(component.name)
        site = lm._sites[f"blocks.0.hook_{short}"]
        assert (site.side, site.module) == (side, module), short
