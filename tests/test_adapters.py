"""LoRA: nothing at the start, exact when merged, every family, and clear about what is absent."""

from contextlib import nullcontext
from math import nan

import pytest
import torch

from tests import tiny
from workbench.activations import HookedLM
from workbench.adapters import linear_layers, merge_lora, merged_afterwards, with_lora
from workbench.data import encode
from workbench.errors import InvalidValueError, UnknownNameError

FAMILIES = ["llama", "gpt2", "qwen3", "gemma3"]
BATCH = encode(tiny.tokenizer(), tiny.examples(3))


@pytest.fixture(params=FAMILIES)
def make(request):
    return getattr(tiny, request.param)


def logits(model):
    with torch.no_grad():
        return HookedLM(model.eval(), check=False)(BATCH).logits


def randomise(model):
    """Give every adapter a B that is not zero."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return model


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(make):
    model = with_lora(make(), rank=2)
    assert torch.equal(logits(model), logits(make()))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)


def test_every_linear_layer_of_the_blocks_is_adapted_and_nothing_else(make):
    names = linear_layers(make())
    wrapped = [n for n, _ in with_lora(make(), rank=2).named_parameters() if "lora_A" in n]
    assert len(wrapped) == len(names)
    assert not any("lm_head" in n or "embed" in n or "wte" in n for n in names)


def test_merging_keeps_the_function_and_gives_back_a_plain_model(make):
    model = randomise(with_lora(make(), rank=2, alpha=4.0))
    before = logits(model)
    merged = merge_lora(model)
    assert type(merged) is type(make())
    assert merged.state_dict().keys() == make().state_dict().keys()
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad for p in merged.parameters())
    assert not torch.allclose(before, logits(make()))


def test_the_seed_decides_and_torchs_generator_is_left_alone():
    def start(seed):
        return [p for n, p in with_lora(tiny.llama(), rank=2, seed=seed).named_parameters()
                if "lora_A" in n]  # fmt: skip

    before = torch.get_rng_state()
    same = zip(start(0), start(0), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(start(0)[0], start(1)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_chosen_targets_only():
    model = with_lora(tiny.llama(), rank=2, targets=["q_proj"])
    assert all("q_proj" in n for n, p in model.named_parameters() if p.requires_grad)


def test_absent_targets_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'q_proj'"):
        with_lora(tiny.llama(), targets=["q_prj"])


@pytest.mark.parametrize(
    "impossible", [{"rank": 0}, {"alpha": 0.0}, {"alpha": nan}, {"dropout": 1.0}, {"dropout": -0.1}]
)
def test_impossible_numbers_are_refused_and_the_model_is_left_alone(impossible):
    model = tiny.llama()
    with pytest.raises(InvalidValueError, match=next(iter(impossible))):
        with_lora(model, **impossible)
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_on_adapters_are_refused():
    adapted = with_lora(tiny.llama(), rank=2)
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(InvalidValueError, match=r"merge_lora.*lora_rank=0"):
            with_lora(model, rank=2)


@pytest.mark.parametrize("failing", [False, True])
def test_adapters_for_a_time_leave_a_plain_model_that_learnt(make, failing):
    model, stop = make(), KeyboardInterrupt if failing else None
    with pytest.raises(stop) if stop else nullcontext():  # noqa: SIM117
        with merged_afterwards(model, rank=2, alpha=4.0) as adapted:
            after = logits(randomise(adapted))
            if stop:
                raise stop
    assert model.state_dict().keys() == make().state_dict().keys()
    torch.testing.assert_close(logits(model), after, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, logits(make()))
