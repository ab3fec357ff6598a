"""The same activations as TransformerLens and nnsight give for the same weights.

Both libraries get a shell, a copy of the module tree that shares every parameter (`views`).
"""

import pytest
import torch
from transformers import AutoTokenizer

from tests import tiny
from tests.activations.families import CONFIGS, make
from workbench.activations import HookedLM

pytestmark = pytest.mark.slow  # importing either library takes seconds

SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "head_dim": 16, "attn_implementation": "eager"}
GPT2_SIZES = {"n_layer": 3, "n_embd": 64, "attn_implementation": "eager"}
LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


@pytest.fixture(params=tiny.FAMILIES)
def model(request):
    sizes = GPT2_SIZES if request.param == "gpt2" else SIZES
    sizes = sizes | (LAYERS if request.param == "gemma3" else {})
    made = tiny.FAMILIES[request.param](**sizes)
    made.config.architectures = [type(made).__name__]
    return made


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def token_ids():
    """Without padding tokens: both libraries derive a mask from them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(6, tiny.VOCABULARY, (2, 9), generator=generator)


def ours(model, ids):
    with torch.no_grad(), HookedLM(model).record("*") as acts:
        model(input_ids=ids, use_cache=False)
    return acts


def test_equal_to_transformer_lens(model, tokenizer):
    bridge = HookedLM(model).transformer_lens(tokenizer)
    ids = token_ids()
    acts = ours(model, ids)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    shared = [name for name in acts if "_module_out" not in name]  # those are ours alone
    assert len(shared) == 2 + 5 * 3
    for name in shared:
        # not to the last bit: TransformerLens splits GPT-2's fused projections
        assert (acts[name] - cache[name]).norm() <= 3e-6 * acts[name].norm(), name


def test_equal_to_nnsight(model, tokenizer):
    ids = token_ids()
    acts = ours(model, ids)
    lm = HookedLM(model).nnsight(tokenizer)
    blocks = lm.transformer.h if hasattr(lm, "transformer") else lm.model.layers
    attn = "attn" if hasattr(lm, "transformer") else "self_attn"
    modules = [m for block in blocks for m in (block, getattr(block, attn), block.mlp)]
    with torch.no_grad(), lm.trace(ids, use_cache=False) as tracer:
        cache = tracer.cache(modules=modules, include_inputs=True).save()
    for i, block in enumerate(blocks):
        taken = {
            "resid_pre": cache[block.path].inputs[0][0],
            "resid_post": cache[block.path].output,
            "attn_module_out": cache[getattr(block, attn).path].output[0],
            "mlp_module_out": cache[block.mlp.path].output,
        }
        for name, theirs in taken.items():
            assert torch.equal(acts[f"blocks.{i}.hook_{name}"], theirs), name


@pytest.mark.parametrize("family", sorted({*CONFIGS} - {"falcon-new", "phimoe"}))
def test_equal_to_transformer_lens_in_every_family_it_shows(family, tokenizer):
    lm = HookedLM(make(family, attn_implementation="eager"))
    acts = ours(lm.model, token_ids())
    with torch.no_grad():
        _, cache = lm.transformer_lens(tokenizer, snapshot=True).run_with_cache(token_ids())
    for name in acts:
        if "_module_out" in name or (family, name) == ("bloom", "hook_embed"):
            continue  # theirs is Bloom's normed embedding, ours what the embedding gives
        assert (acts[name] - cache[name]).norm() <= 1e-5 * acts[name].norm(), name
