import json
import shutil

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from tests import tiny
from workbench import model_files
from workbench.chat_templates import PLAIN, prompt_text, response_text
from workbench.data import Example, encode
from workbench.errors import ModelError, UnknownNameError
from workbench.generation import generate
from workbench.models import digest_of, load, save, tokenizer_of
from workbench.recording_plan import file_states


@pytest.fixture
def directory(tmp_path):
    """A saved tiny Llama."""
    save(tiny.llama(), tiny.tokenizer(), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def adapter(directory):
    """A LoRA adapter that does something, beside its base."""
    base = load(directory)
    model = get_peft_model(base.model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    save(model, base.tokenizer, directory.parent / "adapter")
    return directory.parent / "adapter", model


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 15)[None]).logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_saved_is_what_is_loaded(family, tied, tmp_path):
    model, tokenizer = tiny.FAMILIES[family](tie_word_embeddings=tied), tiny.tokenizer()
    save(model, tokenizer, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded.name == str(tmp_path / "m")
    assert not loaded.model.training


def test_digest_is_that_of_the_weights(directory, tmp_path):
    first = load(directory)
    shutil.copytree(directory, tmp_path / "copy")
    assert load(tmp_path / "copy").digest == first.digest
    save(tiny.llama(seed=1), tiny.tokenizer(), tmp_path / "other")
    assert load(tmp_path / "other").digest != first.digest


def test_live_digest_moves_with_any_weight():
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    before = load(model, tokenizer=tokenizer).digest
    assert load(tiny.llama(), tokenizer=tokenizer).digest == before
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-6
    assert load(model, tokenizer=tokenizer).digest != before


def test_live_models_are_not_copied():
    model = tiny.gpt2()
    loaded = load(model, tokenizer=tiny.tokenizer())
    assert loaded.model is model and loaded.name == "GPT2LMHeadModel"


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype_is_the_checkpoints_unless_given(dtype, tmp_path):
    save(tiny.llama().half(), tiny.tokenizer(), tmp_path / "m")
    assert load(tmp_path / "m").model.dtype is torch.float16
    assert load(tmp_path / "m", dtype=dtype).model.dtype is torch.bfloat16
    assert load(tiny.llama(), tokenizer=tiny.tokenizer(), dtype=dtype).model.dtype is torch.bfloat16


def test_lab_names_go_through_the_lab(directory, monkeypatch):
    save(tiny.llama().half(), tiny.tokenizer(), directory)
    monkeypatch.setattr(
        model_files, "checkpoint_path", {"lab:aligned,seed=2": directory}.__getitem__
    )
    loaded = load("lab:aligned,seed=2")
    assert loaded.name == "lab:aligned,seed=2"
    assert loaded.model.dtype is torch.float32  # lab models are trained on, so never in half


def test_adapters_are_loaded_on_their_base(adapter, directory):
    path, model = adapter
    loaded = load(path)
    torch.testing.assert_close(logits(loaded.model), logits(model))
    assert loaded.digest != load(directory).digest
    assert any(p.requires_grad for p in loaded.model.parameters())


def test_saving_replaces_a_directory_whole(directory):
    (directory / "stale.txt").touch()
    save(tiny.gpt2(), tiny.tokenizer(), directory)
    assert not (directory / "stale.txt").exists()
    assert type(load(directory).model).__name__ == "GPT2LMHeadModel"
    assert [x.name for x in directory.parent.iterdir()] == ["tiny"]


def test_a_save_that_fails_leaves_what_was_there(directory, monkeypatch):
    before = load(directory).digest
    tokenizer = tiny.tokenizer()

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        save(tiny.gpt2(), tokenizer, directory)
    assert load(directory).digest == before
    assert [x.name for x in directory.parent.iterdir()] == ["tiny"]


def test_saving_and_loading_say_nothing(directory, capfd):
    load(directory)
    save(tiny.llama(), tiny.tokenizer(), directory)
    assert capfd.readouterr() == ("", "")


def test_the_plain_template_serves_models_without_one(tmp_path):
    save(tiny.llama(), tiny.tokenizer(chat_template=None), tmp_path / "m")
    with pytest.raises(ModelError, match=r"no chat template.*chat_template='plain'"):
        load(tmp_path / "m")
    tokenizer = load(tmp_path / "m", chat_template="plain").tokenizer
    assert prompt_text(tokenizer, "hi") == "<bos>### Request\nhi\n\n### Answer\n"
    assert response_text(tokenizer, "hi", "yo") == "yo<eos>"
    batch = encode(tokenizer, [Example("e", "hi", "yo")])
    assert tokenizer.decode(batch.input_ids[batch.response_mask]) == "yo<eos>"


def test_plain_template_renders_a_conversation():
    tokenizer = tiny.tokenizer(PLAIN)
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos>be brief\n\n### Request\na\n\n### Answer\nb<eos>\n\n### Request\nc\n\n### Answer\n"
    )


def test_chat_template_may_be_text_but_not_an_unknown_name(directory):
    given = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    assert prompt_text(load(directory, chat_template=given).tokenizer, "x") == "[x]"
    with pytest.raises(UnknownNameError, match="Did you mean 'plain'"):
        load(directory, chat_template="plane")


@pytest.mark.parametrize("text", ["hello", "{% for m in messages %}{{ m.text }} {% endfor %}"])
def test_a_template_that_leaves_the_prompt_out_is_refused(directory, text):
    if "{" not in text:
        text += "{# the same for every prompt #}"
    with pytest.raises(ModelError, match=r"leaves the prompt out.*message\['content'\]"):
        load(directory, chat_template=text)


def test_loaded_models_generate(directory):
    loaded = load(directory)
    assert len(generate(loaded.model, loaded.tokenizer, ["hi"], max_new_tokens=3)) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lab:alinged", "aligned"), ("aligned", "lab:aligned"), ("lab:bsae", "base")],
)
def test_misspelt_lab_names_are_corrected(name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        load(name)


def test_a_path_that_is_not_there_names_its_neighbours(directory):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{directory}'.*lab:aligned"):
        load(str(directory)[:-1] + "z")


def test_a_hub_id_offline_says_so():
    with pytest.raises(UnknownNameError, match="HF_HUB_OFFLINE is set"):
        load("nobody/nothing")


def test_a_hub_id_in_the_cache_is_loaded_offline(directory, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--some--model"
    shutil.copytree(directory, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load("some/model")
    assert (loaded.name, loaded.digest) == ("some/model", load(directory).digest)


def remove(*files):
    def spoil(directory):
        for file in files:
            (directory / file).unlink()

    return spoil


def edit_weights(change):
    def spoil(directory):
        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    return spoil


def edit_config(**values):
    def spoil(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def write(file, content):
    return lambda directory: (directory / file).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "no config.json.*It holds: .*model.safetensors"),
        (write("config.json", b"{"), "config.json cannot be read"),
        (edit_config(model_type="nothing"), "config.json cannot be read"),
        (edit_config(architectures=["LlamaModel"]), "holds a LlamaModel.*not a causal"),
        (remove("model.safetensors"), "no weights.*It holds: .*config.json"),
        (write("model.safetensors", b"12345678rubbish"), "weights cannot be loaded"),
        (edit_weights(lambda w: w.pop("lm_head.weight")), "missing weights .*lm_head.weight"),
        (edit_weights(lambda w: w.update(odd=torch.ones(2))), "unexpected weights .*: odd"),
        (edit_config(num_hidden_layers=3), "missing weights .*layers.2"),
        (
            edit_config(vocab_size=300),
            r"2 weights have other shapes .*lm_head.weight: \(\d+, 32\) in "
            r"the file, \(300, 32\) for LlamaForCausalLM",
        ),
        (remove("tokenizer.json"), "no tokenizer .*tokenizer.save_pretrained"),
        (write("tokenizer.json", b"{}"), "tokenizer cannot be loaded"),
        (remove("chat_template.jinja"), "no chat template"),
    ],
)
def test_a_directory_that_is_no_chat_model(spoil, message, directory):
    spoil(directory)
    with pytest.raises(ModelError, match=message):
        load(directory)


def test_an_encoder_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertForMaskedLM(BertConfig(vocab_size=tiny.VOCABULARY, intermediate_size=8, **sizes))
    save(model, tiny.tokenizer(), tmp_path / "bert")
    with pytest.raises(ModelError, match=r"BertForMaskedLM.*not a causal"):
        load(tmp_path / "bert")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<new>"])
    save(tiny.llama(), tokenizer, tmp_path / "m")
    with pytest.raises(ModelError, match="token id 320, the model embeds only 320"):
        load(tmp_path / "m")


def test_an_adapter_without_base_is_refused(adapter, directory):
    shutil.rmtree(directory)
    with pytest.raises(ModelError, match=f"adapter for '{directory}', which is not there"):
        load(adapter[0])


def test_an_adapter_without_weights_is_refused(adapter):
    (adapter[0] / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter weights"):
        load(adapter[0])


def test_an_adapter_of_another_shape_is_refused(adapter, directory):
    save(tiny.llama(hidden_size=64), tiny.tokenizer(), directory)
    with pytest.raises(ModelError, match="does not fit its base"):
        load(adapter[0])


def test_an_adapter_config_that_is_no_json_is_refused(adapter):
    (adapter[0] / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config.json cannot be read"):
        load(adapter[0])


def test_unknown_dtypes_are_refused(directory):
    with pytest.raises(UnknownNameError, match="Did you mean 'bfloat16'"):
        load(directory, dtype="bfloat")


def test_adapters_that_are_prompts_are_refused(directory):
    base = load(directory)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(base.model, config)
    save(model, base.tokenizer, directory.parent / "prefix")
    with pytest.raises(ModelError, match="PREFIX_TUNING"):
        load(directory.parent / "prefix")


@pytest.mark.parametrize(
    ("model", "kw", "message"),
    [
        (torch.nn.Linear(2, 2), {}, "a Linear is not a Hugging Face or PEFT model"),
        (tiny.llama(), {}, "comes without tokenizer"),
        (tiny.llama().model, {"tokenizer": tiny.tokenizer()}, "LlamaModel has no language-model"),
    ],
)
def test_live_objects_that_are_no_chat_models(model, kw, message):
    with pytest.raises(ModelError, match=message):
        load(model, **kw)


def test_the_digest_needs_no_weights_in_memory(tmp_path):
    from workbench.adapters import with_lora
    from workbench.models import digest_of

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    save(tiny.llama(), tiny.tokenizer(), base)
    adapted = with_lora(load(base).model, rank=2)
    save(adapted, tiny.tokenizer(), adapter)
    for where in (base, adapter, "lab:base"):
        assert digest_of(str(where)) == load(where).digest


SEVERAL = {"default": "{{ messages[0]['content'] }}", "tool_use": "{{ tools }}"}


def test_of_several_templates_a_model_gets_the_default_one(tmp_path):
    several = tiny.tokenizer()
    several.chat_template = SEVERAL
    save(tiny.llama(), several, tmp_path / "m")
    for tokenizer in (load(tmp_path / "m").tokenizer, tokenizer_of(str(tmp_path / "m"))):
        assert tokenizer.chat_template == SEVERAL["default"]
        assert prompt_text(tokenizer, "hi") == "hi"
    plain = load(tmp_path / "m", chat_template="plain").tokenizer
    assert plain.chat_template == PLAIN
    live = load(tiny.llama(), tokenizer=several)
    assert live.tokenizer.chat_template == SEVERAL["default"] and several.chat_template == SEVERAL
    several.chat_template = {"tool_use": "{{ tools }}"}
    with pytest.raises(ModelError, match="no chat template to use"):
        load(tiny.llama(), tokenizer=several)


@pytest.mark.parametrize("over", [0, 1])
def test_an_adapter_that_is_for_itself_is_refused(adapter, over):
    first = adapter[0]
    second = shutil.copytree(first, first.parent / "second")
    for one, other in ((first, second if over else first / "."), (second, first)):
        path = one / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": str(other)}
        path.write_text(json.dumps(config))
    (first / "tokenizer.json").unlink()
    for look in (load, digest_of, tokenizer_of, file_states):
        with pytest.raises(
            ModelError, match=r"adapter whose base is an adapter's folder again: .*->"
        ):
            look(str(first))
