"""A pass that stops early, or before the head, sees what a full pass sees, and touches nothing."""

import pytest
import torch

from tests import tiny
from tests.activations.models import batch, hook_count
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.errors import InvalidValueError, ModelError, SiteError

DEEP = {
    "llama": {"num_hidden_layers": 3},
    "gpt2": {"n_layer": 3},
    "qwen3": {"num_hidden_layers": 3},
    "gemma3": {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
LAST = "blocks.1.hook_resid_post"


@pytest.fixture(params=tiny.FAMILIES)
def model(request):
    return tiny.FAMILIES[request.param](**DEEP[request.param])


def reached(lm, blocks):
    """The sites that fire: those of the blocks that run, and the final norm of a whole pass."""
    n = lm.n_layers if blocks is None else blocks
    below = tuple(f"blocks.{i}." for i in range(n))
    return [s for s in lm.sites if s == "hook_embed" or s.startswith(below)] + (
        ["ln_final.hook_out"] if blocks is None else []
    )


def modules(model):
    return [(name, id(m)) for name, m in model.named_modules()]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("blocks", [1, 2, 3, None])
def test_activations_equal_those_of_the_full_pass_to_the_bit(model, blocks, side):
    lm, x = HookedLM(model), batch(side)
    names = reached(lm, blocks)
    with torch.no_grad(), lm.record("*") as full:
        lm(x)
    with torch.no_grad(), lm.record(*names) as part:
        out = lm.stream(x, blocks)
    assert all(torch.equal(full[name], part[name]) for name in names)
    last = "ln_final.hook_out" if blocks is None else f"blocks.{blocks - 1}.hook_resid_post"
    assert torch.equal(out, full[last])


def test_what_is_left_out_does_not_run(model):
    lm, ran = HookedLM(model), []
    parts = [*lm.parts.blocks, lm.parts.final_norm, lm.parts.base.get_output_embeddings()]
    handles = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in parts]
    lm.stream(batch(), 2)
    assert ran == parts[:2]
    ran.clear()
    lm.stream(batch())
    assert ran == parts[:-1]
    for handle in handles:
        handle.remove()
    for site in ("resid_post.2", "ln_final"):
        with pytest.raises(SiteError, match="never fired"), lm.record(site):
            lm.stream(batch(), 2)


def test_leaves_the_model_as_it_was_also_after_an_error(model):
    lm, before = HookedLM(model), modules(model)
    lm.stream(batch(), 1)
    assert modules(model) == before

    def fail(x, name):
        raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"), lm.intervene({"resid_post.0": fail}):
        lm.stream(batch(), 2)
    assert modules(model) == before
    assert hook_count(model) == 0


def test_gradients_equal_those_of_the_full_pass_and_stop_above(model):
    lm, x, found = HookedLM(model), batch(), []
    for run in (lambda: lm(x), lambda: lm.stream(x, 2)):
        lm.model.zero_grad()
        with lm.record(LAST, grad=True) as acts:
            run()
        acts[LAST].square().mean().backward()
        found.append({n: p.grad for n, p in lm.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(g, found[1][n]) for n, g in found[0].items())
    assert all(p.grad is None for p in lm.parts.blocks[2].parameters())


@pytest.mark.parametrize("recompute", [False, True])
def test_adapters_and_gradient_checkpointing_take_part(model, recompute):
    lm, x = HookedLM(with_lora(model, rank=2)), batch()
    for name, p in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(p, 0.1)
    lm.gradient_checkpointing(recompute)
    lm.model.train()
    for m in lm.model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    with lm.record(LAST) as full, torch.no_grad():
        lm(x)
    with lm.record(LAST, grad=True) as acts:
        lm.stream(x, 2)
    assert torch.equal(acts[LAST], full[LAST])
    acts[LAST].square().mean().backward()
    trained = {n for n, p in lm.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained
    assert all("lora" in n for n in trained)
    with lm.record(LAST) as off, torch.no_grad(), lm.model.disable_adapter():
        lm.stream(x, 2)
    assert not torch.equal(off[LAST], full[LAST])


def test_edits_act(model):
    lm, x = HookedLM(model), batch()
    with torch.no_grad(), lm.intervene({"attn_module_out.0": lambda h, name: h + 1}):
        with lm.record(LAST) as full:
            lm(x)
        assert torch.equal(lm.stream(x, 2), full[LAST])


def test_bad_numbers_are_refused_with_the_range():
    lm = HookedLM(tiny.llama())
    for blocks in (0, 3, -1):
        with pytest.raises(InvalidValueError, match="1 to 2"):
            lm.stream(batch(), blocks)


def test_a_list_of_blocks_that_was_replaced_is_noticed():
    lm = HookedLM(tiny.llama())
    lm.model.model.layers = lm.model.model.layers[:1]
    with pytest.raises(ModelError, match="in one list"):
        lm.stream(batch(), 1)
