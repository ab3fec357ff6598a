"""A frozen reference: the start model's activations, from wherever they come."""

import gc

import pytest
import torch

from tests import tiny
from tests.activations.models import batch
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Example, Stream
from workbench.defences.references import Reading, Recorded, reference
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit

KINDS = ["adapter", "copy", "recorded"]
READINGS = {
    "harmful": Reading(("blocks.0.hook_resid_post",), 1),
    "retain": Reading(("blocks.0.hook_resid_pre", "ln_final.hook_out")),
}
FIT = Fit(steps=3, batch_size=4, micro_batch=2)


def stream(name, texts=None):
    texts = texts or [Example(str(i), f"{name} {i}", "word " * (i % 4 + 1)) for i in range(6)]
    return Stream(name, texts, tiny.tokenizer(), 4)


STREAMS = {name: stream(name) for name in READINGS}


def moved(lm):
    """Train it, roughly."""
    for p in lm.model.parameters():
        if p.requires_grad:
            p.data.add_(0.1)


@pytest.fixture(params=tiny.FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_gives_the_start_models_activations_however_far_training_went(family, kind):
    lm = HookedLM(with_lora(tiny.FAMILIES[family](), rank=2))
    start = HookedLM(tiny.FAMILIES[family]())
    read = reference(kind, lm, READINGS, STREAMS, FIT, own_adapters=True)
    moved(lm)
    lm.model.train()
    for name, drawn in STREAMS.items():
        for step in range(FIT.steps):
            x = drawn.batch(step)
            with torch.no_grad():
                expected = READINGS[name].of(start, x)
            found = read(name, x)
            assert found.keys() == expected.keys()
            for site, value in expected.items():
                assert found[site].dtype == torch.float32
                assert not found[site].requires_grad
                if kind == "recorded":  # in other batches, so padded to other lengths
                    torch.testing.assert_close(found[site], value, rtol=1e-4, atol=1e-5)
                else:
                    assert torch.equal(found[site], value)
    assert lm.model.training  # as it was
    assert all(m.training for m in lm.model.modules())


def test_with_the_adapters_off_logits_are_those_of_the_start_to_the_bit(family):
    lm = HookedLM(with_lora(tiny.FAMILIES[family](), rank=2).eval())
    moved(lm)
    with torch.no_grad(), lm.model.disable_adapter():
        off = lm(batch()).logits
    with torch.no_grad():
        assert torch.equal(off, tiny.FAMILIES[family]()(**inputs(batch())).logits)
        assert not torch.equal(off, lm(batch()).logits)


def inputs(x):
    mask = x.attention_mask.long()
    return {"input_ids": x.input_ids, "attention_mask": mask, "position_ids": x.position_ids}


@pytest.mark.parametrize("kind", ["auto", "copy", "recorded"])
def test_without_adapters_too(kind):
    lm, start = HookedLM(tiny.llama()), HookedLM(tiny.llama())
    read = reference(kind, lm, READINGS, STREAMS, FIT)
    moved(lm)
    x = STREAMS["harmful"].batch(1)
    with torch.no_grad():
        expected = READINGS["harmful"].of(start, x)
    for site, value in expected.items():
        torch.testing.assert_close(read("harmful", x)[site], value, rtol=1e-4, atol=1e-5)


def test_rows_are_the_real_tokens_in_order():
    lm, x = HookedLM(tiny.llama()), batch("left")
    with torch.no_grad(), lm.record("resid_post.0") as acts:
        lm(x)
    with torch.no_grad():
        rows = READINGS["harmful"].of(lm, x)["blocks.0.hook_resid_post"]
    assert torch.equal(rows, acts["blocks.0.hook_resid_post"][x.attention_mask])


def test_a_recording_runs_no_model_and_goes_with_its_owner():
    lm = HookedLM(tiny.llama())
    read = Recorded(lm, READINGS, STREAMS, FIT)
    ran = lm.parts.blocks[0].register_forward_hook(lambda *_: pytest.fail("the model ran"))
    read("retain", STREAMS["retain"].batch(2).rows([1, 3]))
    ran.remove()
    folder = read.folder
    recorded = read._recordings["harmful"]
    assert set(recorded.examples) == {str(i) for i in range(6)}
    assert recorded.manifest.dtype == "fp32"
    del read, recorded
    gc.collect()
    assert not folder.exists()


def test_a_recording_is_of_the_trainings_precision():
    lm = HookedLM(tiny.llama())
    fit = Fit(steps=2, batch_size=4, precision="bf16")
    x = STREAMS["harmful"].batch(0)
    found = Recorded(lm, READINGS, STREAMS, fit)("harmful", x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = READINGS["harmful"].of(lm, x)
    with torch.no_grad():
        single = READINGS["harmful"].of(lm, x)
    (site,) = found
    assert (found[site] - expected[site]).norm() < 0.1 * (expected[site] - single[site]).norm()


def test_adapters_that_are_not_there_cannot_be_switched_off():
    with pytest.raises(InvalidValueError, match="lora_rank"):
        reference("adapter", HookedLM(tiny.llama()), READINGS, STREAMS, FIT)


def test_examples_that_share_an_id_and_nothing_else_cannot_be_recorded():
    twins = stream("harmful", [Example("x", "a", "b"), Example("x", "a", "other")])
    with pytest.raises(InvalidValueError, match="id 'x'"):
        Recorded(HookedLM(tiny.llama()), READINGS, STREAMS | {"harmful": twins}, FIT)
