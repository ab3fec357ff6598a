import peft
import pytest
import torch

from tests import tiny
from tests.activations.models import adapted, batch, hook_count, loss
from workbench.activations import HookedLM

NAME = "blocks.1.hook_resid_post"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_same_names_and_the_adapter_acts(family):
    plain, lm = HookedLM(tiny.FAMILIES[family]()), HookedLM(adapted(family).eval())
    assert lm.sites == plain.sites
    assert lm.dropped == {}
    with torch.no_grad(), plain.record("*") as base, lm.record("*") as with_adapter:
        plain(batch())
        lm(batch())
        assert not torch.allclose(base[NAME], with_adapter[NAME])
        with lm.model.disable_adapter(), lm.record("*") as without:
            lm(batch())
    for name in base:
        assert torch.equal(base[name], without[name])
    assert hook_count(lm.model) == 0


def test_wrapper_made_before_the_adapter_goes_on_working():
    lm = HookedLM(tiny.llama())
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(lm.model, config).eval()
    with torch.no_grad(), lm.record("resid_post") as before, HookedLM(model).record("*") as after:
        lm(batch())
    assert torch.equal(before[NAME], after[NAME])


def test_circuit_breaker_style_step_with_the_adapter_off_as_reference():
    """Loss on live activations against those without the adapter: gradients reach LoRA only."""
    lm, x = HookedLM(adapted("llama").train()), batch()
    with torch.no_grad(), lm.model.disable_adapter(), lm.record("resid_post.1") as reference:
        lm(x)
    with lm.record("resid_post.1", grad=True) as acts:
        lm(x)
    torch.cosine_similarity(acts[NAME], reference[NAME], dim=-1).mean().backward()
    given = {n for n, p in lm.model.named_parameters() if p.grad is not None}
    assert given == {n for n, p in lm.model.named_parameters() if "lora" in n}


def test_gradient_checkpointing_replays_edits_with_an_adapter():
    lm, x, found = HookedLM(adapted("llama").train()), batch(), []
    for on in (False, True):
        lm.gradient_checkpointing(on)
        lm.model.zero_grad()
        with lm.intervene({"attn_module_out": lambda x, name: x + torch.tanh(x)}):
            total = loss(lm(x), x)
        total.backward()
        found.append([p.grad.clone() for p in lm.model.parameters() if p.requires_grad])
    lm.gradient_checkpointing(False)
    assert hook_count(lm.model) == 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
