"""Recording and editing: values, order, gradients, and leaving no trace."""

import copy
import gc
import weakref

import pytest
import torch
from jaxtyping import TypeCheckError

from tests import tiny
from tests.activations.models import batch, hook_count, loss
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import InvalidValueError, SiteError


@pytest.fixture
def lm():
    return HookedLM(tiny.llama())


def plus(constant):
    return lambda x, name: x + constant


def test_recordings_are_copies_without_gradient(lm):
    with lm.record("resid_post.0") as acts:
        lm(batch())
    first = acts["blocks.0.hook_resid_post"]
    assert not first.requires_grad
    before = first.clone()
    lm(batch(seed=1))
    assert torch.equal(first, before)


def test_select_and_to(lm):
    with lm.record("resid_post") as whole, torch.no_grad():
        lm(batch())
    last = {"select": lambda x, name: x[:, -1], "to": torch.float64}
    with lm.record("resid_post", **last) as acts, torch.no_grad():
        lm(batch())
    for name, x in acts.items():
        assert torch.equal(x, whole[name][:, -1].double())
        assert x.untyped_storage().nbytes() == x.numel() * 8  # holds on to nothing else


def test_gradients_of_recorded_activations_equal_gradients_of_an_added_constant(lm):
    x = batch()
    with lm.record("attn_module_out", grad=True) as acts:
        total = loss(lm(x), x)
    direct = torch.autograd.grad(total, list(acts.values()))
    eps = {name: torch.zeros_like(act, requires_grad=True) for name, act in acts.items()}
    with lm.intervene({"attn_module_out": lambda x, name: x + eps[name]}):
        total = loss(lm(x), x)
    for a, b in zip(direct, torch.autograd.grad(total, list(eps.values())), strict=True):
        torch.testing.assert_close(a, b)


def test_writing_into_a_live_recording_is_refused(lm):
    refused = pytest.raises(SiteError, match=r"changed in place.*blocks.1.hook_resid_post")
    with refused, torch.no_grad(), lm.record("resid_post", grad=True) as acts:
        lm(batch())
        acts["blocks.1.hook_resid_post"].add_(1)


def test_edits_act_and_recordings_see_them(lm):
    x = batch()
    with torch.no_grad():
        with lm.record("resid_post.0", "resid_pre.1") as clean:
            logits = lm(x).logits
        # the recording is opened first: the order of contexts of different kinds does not matter
        with (
            lm.record("resid_post.0", "resid_pre.1") as acts,
            lm.intervene({"resid_post.0": plus(1.0)}),
        ):
            edited = lm(x).logits
        assert torch.equal(lm(x).logits, logits)
    for name, act in acts.items():
        assert torch.equal(act, clean[name] + 1)
    assert not torch.allclose(edited, logits)


def test_an_input_can_be_edited(lm):
    x = batch()
    with torch.no_grad():
        with lm.intervene({"resid_post.0": plus(1.0)}):
            after_first = lm(x).logits
        with lm.intervene({"resid_pre.1": plus(1.0)}):
            assert torch.equal(lm(x).logits, after_first)


def test_edits_run_from_the_outermost_to_the_innermost_in_the_order_given(lm):
    def double(x, name):
        return 2 * x

    with torch.no_grad():
        with lm.record("resid_post.0") as clean:
            lm(batch())
        outer = lm.intervene({"resid_post.0": plus(1.0), "resid_post": double})
        inner = lm.intervene({"resid_post.0": plus(3.0)})
        with outer, inner, lm.record("resid_post.0") as acts:
            lm(batch())
    name = "blocks.0.hook_resid_post"
    assert torch.equal(acts[name], 2 * (clean[name] + 1) + 3)


def test_two_wrappers_of_one_model_share_order_and_hooks(lm):
    other = HookedLM(lm.model)
    with torch.no_grad():
        with lm.record("resid_post.0") as clean:
            lm(batch())
        with other.record("resid_post.0") as acts, lm.intervene({"resid_post.0": plus(1.0)}):
            lm(batch())
    name = "blocks.0.hook_resid_post"
    assert torch.equal(acts[name], clean[name] + 1)


def test_contexts_of_one_model_do_not_see_another():
    lm, reference = HookedLM(tiny.llama()), HookedLM(tiny.llama(seed=1))
    with lm.record("resid_post.0") as acts, torch.no_grad():
        lm(batch())
        first = acts["blocks.0.hook_resid_post"]
        reference(batch())
        assert acts["blocks.0.hook_resid_post"] is first


def test_edit_returning_none_changes_nothing(lm):
    with torch.no_grad():
        logits = lm(batch()).logits
        with lm.intervene({"resid_post": lambda x, name: None}):
            assert torch.equal(lm(batch()).logits, logits)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda x, name: x[:, :1], "a replacement must have its type and shape"),
        (lambda x, name: x.double(), "torch.float64"),
        (lambda x, name: 3, "returned int, not a tensor or None"),
    ],
)
def test_replacement_that_does_not_fit_is_refused(lm, edit, message):
    with pytest.raises(SiteError, match=message), lm.intervene({"resid_post.0": edit}):
        lm(batch())
    assert hook_count(lm.model) == 0


def test_site_that_never_fired_is_named_with_what_did_fire(lm):
    lm.model.model.layers[1].forward = lambda x, **kwargs: x  # its inner modules are skipped
    with pytest.raises(SiteError) as caught, lm.record("attn_out", "resid_post"):
        lm(batch())
    message = str(caught.value)
    assert "nothing was recorded there: blocks.1.hook_attn_out" in message
    assert "blocks.0.hook_attn_out, blocks.0.hook_resid_post, blocks.1.hook_resid_post" in message
    refused = pytest.raises(SiteError, match=r"nothing was edited there: blocks.1.hook_attn_out")
    with refused, lm.intervene({"attn_out": plus(1.0)}):
        lm(batch())


def test_context_without_a_forward_pass_is_an_error(lm):
    with (
        pytest.raises(SiteError, match="no forward pass of this model ran"),
        lm.record("resid_post"),
    ):
        pass


def test_what_was_not_recorded_is_refused(lm):
    with lm.record("resid_post.0") as acts:
        lm(batch())
    with pytest.raises(SiteError, match=r"Recorded: blocks.0.hook_resid_post"):
        acts["blocks.1.hook_resid_post"]
    assert "blocks.1.hook_resid_post" not in acts


def test_hooks_exist_only_inside_contexts_whatever_happens(lm):
    assert hook_count(lm.model) == 0
    with lm.record("resid_post", "attn_out", "attn_module_out"):
        assert hook_count(lm.model) == 4  # attn_out and attn_module_out share one
        with lm.intervene({"resid_post": plus(1.0)}):
            assert hook_count(lm.model) == 4
            lm(batch())
    assert hook_count(lm.model) == 0
    with pytest.raises(ZeroDivisionError), lm.record("resid_post"):
        1 / 0  # noqa: B018
    assert hook_count(lm.model) == 0


def test_contexts_may_close_in_any_order(lm):
    first, second = lm.record("resid_post.0"), lm.record("resid_post.0")
    a, b = first.__enter__(), second.__enter__()
    lm(batch())
    first.__exit__(None, None, None)
    lm(batch())
    second.__exit__(None, None, None)
    assert (a.counts.total(), b.counts.total()) == (1, 2)
    assert hook_count(lm.model) == 0


def test_foreign_hooks_stay(lm):
    handle = lm.model.model.layers[0].register_forward_hook(lambda m, a, o: o + 1)
    with lm.record("resid_post"):
        lm(batch())
    assert hook_count(lm.model) == 1
    handle.remove()


def test_model_is_saved_generated_from_and_copied_as_before(lm, tmp_path):
    twin = tiny.llama()
    prompt = {"input_ids": batch().input_ids[:1], "max_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), lm.record("resid_post") as acts, lm.intervene({"embed": plus(0.0)}):
        made = lm.model.generate(**prompt)
        clone = copy.deepcopy(lm.model)
        lm.model.save_pretrained(tmp_path)
    assert torch.equal(made, twin.generate(**prompt))
    assert set(acts.counts.values()) == {4}  # one pass a new token
    assert list(lm.model.state_dict()) == list(twin.state_dict())
    kept = type(twin).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(kept[k], v) for k, v in twin.state_dict().items())
    assert torch.equal(clone(**_ids()).logits, twin(**_ids()).logits)


def _ids():
    return {"input_ids": batch().input_ids}


def test_wrapper_keeps_nothing_alive():
    lm = HookedLM(tiny.llama())
    with lm.record("resid_post", grad=True) as acts:
        lm(batch())
    model, activation = weakref.ref(lm.model), weakref.ref(acts["blocks.0.hook_resid_post"])
    del lm, acts
    gc.collect()
    assert model() is None
    assert activation() is None


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma3"])
def test_padding_side_does_not_matter(family):
    lm = HookedLM(tiny.FAMILIES[family]())
    right, left = batch("right"), batch("left")
    real = {}
    for x in (right, left):
        with torch.no_grad(), lm.record("resid_post") as acts:
            logits = lm(x).logits
        real[x] = [logits[x.attention_mask], *(a[x.attention_mask] for a in acts.values())]
    for a, b in zip(real[right], real[left], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_a_tokenizer_gives_is_read_as_a_batch_is(family, side):
    lm, tokenizer = HookedLM(tiny.FAMILIES[family]()), tiny.tokenizer()
    tokenizer.padding_side = side
    tokens = tokenizer(["mend the boat", "tide"], return_tensors="pt", padding=True)
    ids, real = tokens["input_ids"], tokens["attention_mask"].bool()
    same = Batch(ids, real, real, ("0", "1"))
    with torch.no_grad():
        for given in (tokens, dict(tokens), {"token_type_ids": ids, **tokens}):
            assert torch.equal(lm(given).logits, lm(same).logits)
            assert torch.equal(lm.stream(given), lm.stream(same))


def test_what_is_no_batch_is_refused_with_how_to_make_one(lm):
    listed = tiny.tokenizer()(["mend the boat"])
    ids = torch.zeros(1, 3, dtype=torch.long)
    for given, message in (
        (listed, "as tensors; given: .*input_ids .list"),
        ({"input_ids": ids}, "attention_mask as tensors"),
        ({}, "given: nothing"),
        ({"input_ids": ids[0], "attention_mask": ids[0]}, r"must both be \[batch, pos\]"),
        ({"input_ids": ids, "attention_mask": ids[:, :2]}, r"not \(1, 3\) and \(1, 2\)"),
    ):
        with pytest.raises(InvalidValueError, match=f"{message}.*workbench.encode"):
            lm(given)
    for given in ("mend the boat", ids):
        with pytest.raises((InvalidValueError, TypeCheckError)):
            lm(given)


def test_forward_passes_keyword_arguments_on(lm):
    out = lm(batch(), use_cache=True, output_hidden_states=True)
    assert out.past_key_values is not None
    assert lm(batch()).past_key_values is None
    assert len(out.hidden_states) == 3


def test_works_in_inference_mode(lm):
    with torch.inference_mode(), lm.record("resid_post", grad=True) as acts:
        lm(batch())
    assert len(acts) == 2


@pytest.mark.slow
def test_context_opened_after_compilation_is_an_error_not_a_silence(lm):
    lm.model.forward = torch.compile(lm.model.forward, backend="eager")
    with torch.no_grad():
        lm(batch())
        with pytest.raises(SiteError, match="compiled before"), lm.record("resid_post"):
            lm(batch())
