"""What every registered defence promises. A new defence is tested by being registered."""

import dataclasses
import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from tests import tiny
from workbench.activations import evaluating
from workbench.data import Example, Stream
from workbench.defences import DEFENCES
from workbench.domains import PAIRED
from workbench.errors import InvalidValueError, MissingStreamError, TrainingError, UnknownNameError
from workbench.generation import generate
from workbench.optimisation import Fit

FIT = Fit(steps=3, lr=1e-2, batch_size=4, warmup=0)


def streams(names):
    """Eight examples a stream; refusals answer the prompts of the harmful ones."""
    drawn = {}
    for name in names:
        said = "no" if name == "refusal" else "word"
        texts = [Example(str(i), f"say {i}", f"{said} " * (i % 4 + 1)) for i in range(8)]
        drawn[name] = Stream(name, texts, tiny.tokenizer(), 4, like=PAIRED.get(name, ""))
    return drawn


def make(name, **changes):
    return DEFENCES[name](**{"fit": FIT} | changes)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def logits(model):
    with evaluating(model):
        return model(torch.arange(3, 12)[None]).logits


@pytest.fixture(params=DEFENCES)
def name(request):
    return request.param


@pytest.fixture(params=["llama", "gpt2", "qwen3", "gemma3"])
def model(request):
    return getattr(tiny, request.param)()


def test_leaves_the_given_model_as_it_was(name, model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    make(name).immunise(model, streams(DEFENCES[name].streams))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert hooks(model) == 0


def test_changes_the_copy_and_leaves_no_hooks(name, model):
    out = make(name).immunise(model, streams(DEFENCES[name].streams))
    assert type(out) is type(model)
    assert hooks(out) == 0
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), out.parameters(), strict=True)
    )


def test_in_place_trains_the_model_that_was_given(name):
    model = tiny.llama()
    assert make(name).immunise(model, streams(DEFENCES[name].streams), in_place=True) is model


def test_same_seed_same_weights(name):
    runs = [
        make(name).immunise(tiny.llama(), streams(DEFENCES[name].streams), seed=1) for _ in "ab"
    ]
    a, b = (r.state_dict() for r in runs)
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"fit": replace(FIT, micro_batch=2)},
                                     {"fit": replace(FIT, precision="bf16")},
                                     {"fit": replace(FIT, gradient_checkpointing=True)},
                                     {"lora_rank": 2, "fit": replace(FIT, micro_batch=2,
                                      precision="bf16", gradient_checkpointing=True)}])  # fmt: skip
def test_composes_with_lora_accumulation_bf16_and_recomputing(name, changes, tmp_path):
    out = make(name, **changes).immunise(tiny.llama(), streams(DEFENCES[name].streams))
    out.save_pretrained(tmp_path)
    again = type(out).from_pretrained(tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in out.state_dict().items())


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_bf16_and_recomputing_go_through_a_file_in_every_family(name, model, lora_rank, tmp_path):
    fit = replace(FIT, steps=2, precision="bf16", gradient_checkpointing=True)
    out = make(name, fit=fit, lora_rank=lora_rank).immunise(model, streams(DEFENCES[name].streams))
    out.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in out.state_dict().items())


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_parameters_require_gradients_as_before(name, lora_rank):
    model = tiny.llama()
    model.model.embed_tokens.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    out = make(name, lora_rank=lora_rank).immunise(model, streams(DEFENCES[name].streams))
    assert [p.requires_grad for p in out.parameters()] == before


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, TrainingError])
def test_a_failure_in_place_leaves_a_plain_model_of_the_last_step(name, lora_rank, error):
    model, seen = tiny.llama(), []
    model.model.embed_tokens.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]

    def fail(step, trained):
        if step.step == 2:
            seen.append(logits(trained))
            raise error("stopped")

    method = make(name, lora_rank=lora_rank, fit=replace(FIT, gradient_checkpointing=True))
    drawn = streams(DEFENCES[name].streams)
    with pytest.raises(error, match="stopped"):
        method.immunise(model, drawn, callbacks=[fail], in_place=True)
    assert model.state_dict().keys() == tiny.llama().state_dict().keys()
    assert hooks(model) == 0
    assert not model.is_gradient_checkpointing
    assert not any(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(logits(model), seen[0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(seen[0], logits(tiny.llama()), atol=1e-2)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_no_gradient_is_left_of_a_step_that_was_not_taken(monkeypatch, lora_rank):
    def interrupt(parameters, *_):
        assert any(p.grad is not None for p in parameters)
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.training._gradient_norm", interrupt)
    model, method = tiny.llama(), make("vaccine", lora_rank=lora_rank)
    with pytest.raises(KeyboardInterrupt):
        method.immunise(model, streams(method.streams), in_place=True)
    assert all(p.grad is None for p in model.parameters())


def test_adapters_are_gone_when_training_cannot_begin():
    model, method = tiny.llama(), make("t_vaccine", lora_rank=2, active=9)
    with pytest.raises(InvalidValueError, match="active=9"):
        method.immunise(model, streams(method.streams), in_place=True)
    assert model.state_dict().keys() == tiny.llama().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_go_where_they_are_told_to(name):
    model = tiny.llama()
    out = make(name, lora_rank=2, lora_targets=("v_proj",), lora_dropout=0.1).immunise(
        model, streams(DEFENCES[name].streams)
    )
    moved = {
        key.split(".")[-2]
        for key, now in out.state_dict().items()
        if not torch.equal(now, model.state_dict()[key])
    }
    assert moved == {"v_proj"}
    with pytest.raises(UnknownNameError, match=r"no linear layer called 'v_prj'.*v_proj"):
        make(name, lora_rank=2, lora_targets=("v_prj",)).immunise(
            model, streams(DEFENCES[name].streams)
        )


@pytest.mark.parametrize("bad", [{"lora_rank": -1}, {"lora_alpha": 0.0}, {"lora_alpha": -16.0},
                                 {"lora_dropout": -0.1}, {"lora_dropout": 1.0},
                                 {"lora_dropout": 1.5}])  # fmt: skip
def test_impossible_adapters_are_refused(name, bad):
    ((setting, value),) = bad.items()
    with pytest.raises(InvalidValueError, match=f"^{setting} is .*{value}"):
        make(name, **bad)


def test_generates_like_any_model_afterwards(name):
    out = make(name).immunise(tiny.llama(), streams(DEFENCES[name].streams))
    prompts = tiny.tokenizer()(["say 1"], return_tensors="pt")
    assert out.generate(**prompts, max_new_tokens=3, do_sample=False).shape[1] > 3
    assert len(generate(out, tiny.tokenizer(), ["say 1"], max_new_tokens=3)) == 1


def test_says_which_stream_is_missing(name):
    with pytest.raises(MissingStreamError, match=DEFENCES[name].streams[0]):
        make(name).immunise(tiny.llama(), {})


def test_draws_only_the_streams_it_declares(name):
    drawn = streams(DEFENCES[name].streams)
    unused = Stream("unused", [Example("x", "a", "b")], None, 1)  # no tokenizer: drawing it fails
    make(name).immunise(tiny.llama(), drawn | {"unused": unused})


def test_hyper_parameters_survive_json(name):
    assert json.loads(json.dumps(dataclasses.asdict(make(name))))


def test_the_matched_control_differs_in_the_method_alone(name):
    method = make(name)
    control = method.matched_control()
    assert control != method
    for same in ("start", "streams", "steps", "batch_size"):
        assert getattr(control, same) == getattr(method, same)
    assert getattr(control, "fit", None) == getattr(method, "fit", None)


def test_cites_its_paper(name):
    assert re.search(r"arXiv:\d{4}\.\d{5}", sys.modules[DEFENCES[name].__module__].__doc__)
