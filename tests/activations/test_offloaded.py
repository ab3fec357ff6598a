"""Models that accelerate spreads over devices, CPU and disk: read as if they were whole."""

import pytest
import torch
from accelerate import cpu_offload, dispatch_model

from tests import tiny
from tests.activations.models import batch
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.errors import ModelError
from workbench.generation import generate
from workbench.models import load, save
from workbench.readout import read_out

PATHS = {"gpt2": ("transformer", "h", "wte")}


def places(family, model):
    """The embedding, the norm and the last block on disk; the rest in memory."""
    root, blocks, embed = PATHS.get(family, ("model", "layers", "embed_tokens"))
    parts = {name: "cpu" for name, _ in model.named_children() if name != root}
    for name, _ in getattr(model, root).named_children():
        if name == blocks:
            parts |= {f"{root}.{blocks}.0": "cpu", f"{root}.{blocks}.1": "disk"}
        else:
            parts[f"{root}.{name}"] = "disk" if name in (embed, "norm", "ln_f") else "cpu"
    return parts


@pytest.fixture(params=tiny.FAMILIES)
def pair(request, tmp_path):
    """A model and the same one with half of it on disk."""
    model = tiny.FAMILIES[request.param]()
    save(model, tiny.tokenizer(), tmp_path / "model")
    part = load(tmp_path / "model", device_map=places(request.param, model)).model
    assert any(p.is_meta for p in part.parameters())
    return HookedLM(model), HookedLM(part)


@torch.no_grad()
def recorded(lm):
    with lm.record("*") as acts:
        logits = lm(batch()).logits
    return acts, logits


def test_recordings_equal_those_of_the_whole_model_to_the_bit(pair):
    (whole, logits), (part, part_logits) = map(recorded, pair)
    assert [*whole] == [*part]
    assert torch.equal(logits, part_logits)
    assert all(torch.equal(whole[name], part[name]) for name in whole)


@torch.no_grad()
def test_edits_streams_and_read_outs_equal_those_of_the_whole_model(pair):
    def answers(lm):
        with lm.record("resid_post.0") as acts:
            found = [lm.stream(batch()), lm.stream(batch(), 1)]
        found.append(read_out(lm)(*acts.values()))
        with lm.intervene({"attn_module_out.1": lambda x, name: x + 1}):
            return [*found, lm(batch()).logits]

    assert all(torch.equal(a, b) for a, b in zip(*map(answers, pair), strict=True))


def test_answers_equal_those_of_the_whole_model(pair):
    whole, part = (
        generate(lm.model, tiny.tokenizer(), tiny.PROMPTS, max_new_tokens=4) for lm in pair
    )
    assert whole == part


def test_gradients_reach_only_what_is_in_memory_so_training_is_refused(pair, tmp_path):
    lm, x = pair[1], batch()
    lm(x).logits.sum().backward()
    lost = [name for name, p in lm.model.named_parameters() if p.grad is None]
    assert lost  # without a word
    with pytest.raises(ModelError, match=r"adding adapters needs all weights in memory.*offloaded"):
        with_lora(lm.model)
    with pytest.raises(ModelError, match="read-only"):
        save(lm.model, tiny.tokenizer(), tmp_path / "again")


def test_views_are_refused(pair):
    for view in (pair[1].transformer_lens, pair[1].nnsight):
        with pytest.raises(ModelError, match=r"parts of it are offloaded.*without device_map"):
            view(tiny.tokenizer())


def test_a_model_offloaded_to_the_cpu_whole(tmp_path):
    model = tiny.llama()
    part = HookedLM(cpu_offload(tiny.llama(), execution_device="cpu"))
    (whole, logits), (found, part_logits) = map(recorded, (HookedLM(model), part))
    assert torch.equal(logits, part_logits)
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    loaded = load(part.model, tokenizer=tiny.tokenizer())
    assert loaded.model is part.model
    assert loaded.digest == load(model, tokenizer=tiny.tokenizer()).digest
    with pytest.raises(ModelError, match="dtype of offloaded weights"):
        load(part.model, tokenizer=tiny.tokenizer(), dtype="bfloat16")


def test_a_decoder_dispatched_as_one_part_cannot_stop_early(tmp_path):
    model = tiny.llama()
    parts = {"model": "disk", "lm_head": "cpu"}
    lm = HookedLM(dispatch_model(model, parts, offload_dir=str(tmp_path)))
    assert torch.equal(recorded(lm)[1], recorded(HookedLM(tiny.llama()))[1])
    with torch.no_grad():
        lm.stream(batch())
        with pytest.raises(ModelError, match="dispatched by accelerate"):
            lm.stream(batch(), 1)


def test_a_model_spread_over_devices_that_hold_it_whole_can_be_trained(tmp_path):
    model = tiny.llama()
    save(model, tiny.tokenizer(), tmp_path / "model")
    loaded = load(tmp_path / "model", device_map={"": "cpu"})
    assert loaded.digest == load(tmp_path / "model").digest
    with_lora(loaded.model)
