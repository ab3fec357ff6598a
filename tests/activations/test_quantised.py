"""Quantised models are read-only: recording works, whatever would change weights is refused.

Real 8- and 4-bit weights where a library for them is installed (bitsandbytes, torchao: neither is a
dependency); BitNet's packed weights, which transformers itself reads on a CPU, everywhere.
"""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig
from transformers.integrations.bitnet import BitLinear, pack_weights

from tests import tiny
from tests.activations.models import batch
from workbench.activations import HookedLM
from workbench.adapters import linear_layers, merge_lora, with_lora
from workbench.attacks import SupervisedFineTuning
from workbench.data import Stream
from workbench.defences import Vaccine
from workbench.errors import ModelError
from workbench.models import load, save
from workbench.optimisation import Fit
from workbench.read_only import quantisation
from workbench.readout import read_out
from workbench.training import train

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


def bitnet(directory):
    """Ternary weights of two bits, packed as published BitNet checkpoints are."""
    model = tiny.llama(**SIZES)
    packed = {}
    for name, layer in linear_layers(model).items():
        scale = layer.weight.abs().mean()
        ternary = (layer.weight / scale).round().clamp(-1, 1)
        made = BitLinear(layer.in_features, layer.out_features, bias=False)
        made.weight.copy_(pack_weights(ternary))
        made.weight_scale.fill_(1 / scale)
        packed[name] = made
    for name, layer in packed.items():
        model.set_submodule(name, layer)
    model.save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "modules_to_not_convert": ["lm_head"],
    }
    (directory / "config.json").write_text(json.dumps(config))
    return load(directory).model


def by_library(name, config):
    def made(directory):
        pytest.importorskip(name)
        save(tiny.llama(**SIZES), tiny.tokenizer(), directory)
        return AutoModelForCausalLM.from_pretrained(
            directory, quantization_config=config(), device_map="cpu"
        )

    return made


def int8_weights():
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


KINDS = {
    "bitnet": bitnet,
    "bitsandbytes-8": by_library("bitsandbytes", lambda: BitsAndBytesConfig(load_in_8bit=True)),
    "bitsandbytes-4": by_library("bitsandbytes", lambda: BitsAndBytesConfig(load_in_4bit=True)),
    "torchao": by_library("torchao", int8_weights),
}


@pytest.fixture(params=KINDS)
def model(request, tmp_path):
    torch.compiler.set_stance("force_eager")  # BitNet's layers would call a C++ compiler
    yield KINDS[request.param](tmp_path / "model")
    torch.compiler.set_stance("default")


def test_the_stream_is_recorded_edited_and_read_out(model):
    lm = HookedLM(model)
    assert lm.dropped == {}
    with torch.no_grad(), lm.record("*") as acts:
        states = lm(batch(), output_hidden_states=True).hidden_states
    assert torch.equal(acts["blocks.0.hook_resid_pre"], states[0])
    assert torch.equal(acts["blocks.0.hook_resid_post"], states[1])
    assert torch.equal(acts["ln_final.hook_out"], states[2])
    with torch.no_grad():
        plain = lm(batch()).logits
        torch.testing.assert_close(
            read_out(lm)(acts["ln_final.hook_out"], normed=True), plain, rtol=1e-3, atol=1e-3
        )
        with lm.intervene({"resid_post.0": lambda x, name: x + 1}):
            assert not torch.allclose(lm(batch()).logits, plain)


def streams():
    made = Stream("align", tiny.examples(), tiny.tokenizer(), batch_size=2)
    return {"align": made, "harmful": made}


def test_whatever_would_change_weights_is_refused_in_one_line(model, tmp_path):
    config = Fit(steps=1, batch_size=2)
    doors = {
        "immunising": lambda: Vaccine(fit=config).immunise(model, streams()),
        "attacking": lambda: next(SupervisedFineTuning(steps=1).run(model, streams())),
        "training": lambda: next(train(model, streams(), lambda *_: {}, config)),
        "adding adapters": lambda: with_lora(model),
        "merging adapters": lambda: merge_lora(model),
        "saving in plain format": lambda: save(model, tiny.tokenizer(), tmp_path / "out"),
    }
    for doing, door in doors.items():
        with pytest.raises(ModelError) as caught:
            door()
        message = str(caught.value)
        assert message.startswith(f"{doing} needs full-precision weights"), message
        assert "read-only" in message
        assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_views_are_refused(model):
    lm = HookedLM(model)
    for view in (lm.transformer_lens, lm.nnsight):
        with pytest.raises(ModelError, match="weights are quantised"):
            view(tiny.tokenizer())


def test_a_live_model_is_loaded_where_it_is(model):
    loaded = load(model, tokenizer=tiny.tokenizer())
    assert loaded.model is model
    assert loaded.digest == load(model, tokenizer=tiny.tokenizer()).digest
    with pytest.raises(ModelError, match=r"dtype of .* weights cannot be changed"):
        load(model, tokenizer=tiny.tokenizer(), dtype="float32")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_plain_models_are_not_taken_for_quantised(family):
    for dtype in (torch.float32, torch.bfloat16):
        assert quantisation(tiny.FAMILIES[family]().to(dtype)) is None


def test_eight_bit_floats_count_as_quantised():
    model = tiny.llama()
    layer = model.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert quantisation(model) == "Parameter of torch.float8_e4m3fn"
