"""What the peers do that our design answers: if one of these fails, a reason of ours is gone.

Each is stated in docs/views.md.
"""

import subprocess
import sys
import warnings

import peft
import pytest
import torch
from transformers import AutoTokenizer

from tests import tiny
from tests.activations.families import make
from tests.activations.models import batch as padded
from tests.activations.models import hook_count
from workbench.activations import HookedLM
from workbench.errors import SiteError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def ids():
    return torch.arange(6, 15)[None]


def test_gpt2_reads_left_padding_wrongly_unless_it_is_told_the_positions():
    lm, right, left = HookedLM(tiny.gpt2()), padded("right"), padded("left")
    with torch.no_grad():
        truth = lm(right).logits[right.attention_mask]
        bare = lm.model(input_ids=left.input_ids, attention_mask=left.attention_mask.long()).logits
        told = lm(left).logits
    torch.testing.assert_close(told[left.attention_mask], truth, rtol=1e-4, atol=1e-4)
    assert (bare[left.attention_mask] - truth).abs().max() > 0.1


def test_falcon_adds_into_what_its_mlp_gave():
    """A recording that is no copy is overwritten; ours is one, and a live one is refused."""
    lm, aliased = HookedLM(make("falcon")), {}
    mlp = lm.parts.blocks[0].mlp
    handle = mlp.register_forward_hook(lambda m, args, out: aliased.update(out=out.detach()))
    with torch.no_grad(), lm.record("mlp_out.0", "attn_out.0") as acts:
        lm(padded())
    handle.remove()
    ours, added = acts["blocks.0.hook_mlp_out"], acts["blocks.0.hook_attn_out"]
    assert not torch.allclose(aliased["out"], ours)
    torch.testing.assert_close(aliased["out"], ours + added)
    with pytest.raises(SiteError, match="changed in place"), lm.record("mlp_out", grad=True):
        lm(padded())


@pytest.mark.slow
def test_compiled_models_honour_contexts_that_were_open_before():
    lm = HookedLM(tiny.llama())
    with torch.no_grad(), lm.record("resid_post") as plain:
        lm(padded())
    lm.model.forward = torch.compile(lm.model.forward, backend="eager")
    with torch.no_grad(), lm.record("resid_post") as acts:
        lm(padded())
    assert all(torch.equal(acts[name], plain[name]) for name in plain)


@pytest.mark.slow
def test_compiled_blocks_honour_contexts_that_come_later():
    lm, x = HookedLM(tiny.llama()), padded()
    with torch.no_grad(), lm.record("resid_post") as plain:
        lm(x)
    for block in lm.parts.blocks:
        block.compile(backend="eager")
    with torch.no_grad():
        lm(x)
        with lm.record("resid_post") as acts:
            lm(x)
    assert all(torch.equal(acts[name], plain[name]) for name in plain)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_checkpointing_wraps_the_inside_of_a_block(family):
    """Hooks on a block fire once, hooks on its attention twice: in forward and in recomputation."""
    model = tiny.FAMILIES[family]().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    lm, fired = HookedLM(model, check=False), []
    block = lm.parts.blocks[0]
    attention = getattr(block, "self_attn", None) or block.attn
    for name, module in (("block", block), ("attention", attention)):
        module.register_forward_hook(lambda *_, name=name: fired.append(name))
    lm(padded()).logits.sum().backward()
    assert (fired.count("block"), fired.count("attention")) == (1, 2)


@pytest.mark.slow
def test_transformer_lens_takes_over_the_model_it_is_given(tokenizer, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    model = tiny.llama()
    names, modules = [*model.state_dict()], len([*model.modules()])
    kwargs = {"tokenizer": tokenizer, "device": "cpu", "dtype": model.dtype}
    model.config.architectures = ["LlamaForCausalLM"]
    TransformerBridge.boot_transformers("local/model", hf_model=model, **kwargs)
    assert [*model.state_dict()] != names
    assert len([*model.modules()]) > 2 * modules
    assert model.config._attn_implementation == "eager"
    with pytest.raises((RuntimeError, ValueError)):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))


@pytest.mark.slow
def test_a_cache_of_transformer_lens_is_detached_and_aliases(tokenizer):
    bridge = HookedLM(tiny.llama()).transformer_lens(tokenizer)
    _, cache = bridge.run_with_cache(ids())
    assert not any(x.requires_grad for x in cache.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_edits_through_transformer_lens_reach_gradients_and_answers(family, tokenizer):
    lm = HookedLM(make(family))
    bridge = lm.transformer_lens(tokenizer)
    shift = torch.zeros(32, requires_grad=True)
    hook = ("blocks.0.hook_resid_post", lambda x, hook: x + shift)
    theirs = torch.autograd.grad(bridge.run_with_hooks(ids(), fwd_hooks=[hook]).sum(), shift)[0]
    with lm.intervene({"resid_post.0": lambda x, name: x + shift}):
        ours = torch.autograd.grad(lm.model(ids()).logits.sum(), shift)[0]
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_nnsight_must_be_asked_in_the_order_of_the_forward_pass(tokenizer):
    lm = HookedLM(tiny.llama())
    sight = lm.nnsight(tokenizer)
    with pytest.raises(Exception, match="already ran past it"), sight.trace(ids()):
        late = sight.model.layers[1].output.save()  # noqa: F841
        early = sight.model.layers[0].output.save()  # noqa: F841
    with torch.no_grad(), lm.record("resid_post.0") as acts:
        lm.model(ids())
    with torch.no_grad(), sight.trace(ids()):
        first = sight.model.layers[0].output.save()
    assert torch.equal(first, acts["blocks.0.hook_resid_post"])


@pytest.mark.slow
def test_nnsight_shows_operations_inside_attention(tokenizer):
    lm = HookedLM(tiny.llama(attn_implementation="eager"))
    sight = lm.nnsight(tokenizer)
    with torch.no_grad(), sight.trace(ids()):
        pattern = sight.model.layers[1].self_attn.source.attention_interface_1.output[1].save()
    _, cache = lm.transformer_lens(tokenizer).run_with_cache(ids())
    torch.testing.assert_close(pattern, cache["blocks.1.attn.hook_pattern"])


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["nnsight", "transformer_lens"])
def test_edits_through_the_peers_are_forgotten_by_gradient_checkpointing(peer, tokenizer):
    """The loss is the same and the gradients are wrong: no training loop runs through them."""
    found = []
    for checkpointing in (False, True):
        lm = HookedLM(tiny.llama())
        view = getattr(lm, peer)(tokenizer)
        module = view._module if peer == "nnsight" else view.original_model
        module.train()
        if checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        if peer == "nnsight":
            with view.trace(ids(), use_cache=False):
                attention = view.model.layers[0].self_attn
                attention.output = (attention.output[0] + 0.3, *attention.output[1:])
                out = view.output.logits.save()
        else:
            edit = ("blocks.0.hook_attn_out", lambda x, hook: x + 0.3)
            out = view.run_with_hooks(ids(), fwd_hooks=[edit])
        total = out[..., :7].logsumexp(-1).sum()
        total.backward()
        found.append((float(total), lm.model.model.layers[0].mlp.down_proj.weight.grad.clone()))
        lm.model.zero_grad()
    (loss, plain), (same, wrong) = found
    assert abs(loss - same) < 1e-3 * abs(loss)
    assert (plain - wrong).norm() > 0.01 * plain.norm()


SIDE_EFFECTS = """
import torch
before = torch.Tensor.backward
import nnsight
print(hasattr(1, "save"), torch.Tensor.backward is not before)
"""
IN_EXEC = """
import torch
from nnsight import TransformersModel
from tests import tiny
lm = TransformersModel(tiny.llama(), tokenizer=tiny.tokenizer(), task="text-generation")
code = '''
with lm.trace(torch.arange(6, 9)[None]):
    out = lm.output.save()
'''
try:
    exec(code)
    print("ran")
except Exception as error:
    print(type(error).__name__)
"""


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()[-2:] or done.stderr[-500:]


@pytest.mark.slow
def test_importing_nnsight_changes_every_object_and_backward():
    assert printed(SIDE_EFFECTS) == ["True", "True"]


@pytest.mark.slow
def test_nnsight_cannot_trace_what_has_no_source():
    assert "ran" not in printed(IN_EXEC)


@pytest.mark.slow
def test_nnsight_leaves_no_hooks_and_its_old_name_is_deprecated(tokenizer):
    import nnsight

    lm = HookedLM(tiny.llama())
    assert hook_count(lm.nnsight(tokenizer)._module) == 0
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        nnsight.LanguageModel(tiny.llama(), tokenizer=tokenizer)
    assert any(issubclass(w.category, FutureWarning) for w in seen)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "lost"), [("llama", None), ("gpt2", "c_attn"), ("phi3", "qkv")])
def test_gradients_through_transformer_lens_miss_fused_weights(family, lost, tokenizer):
    lm = HookedLM(make(family))
    lm.transformer_lens(tokenizer)(ids()).logsumexp(-1).sum().backward()
    missed = {name for name, p in lm.model.named_parameters() if p.grad is None}
    assert any(lost in name for name in missed) if lost else not missed
