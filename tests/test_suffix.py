"""Running the upper blocks from an edited stream equals a full pass with the same edit."""

import pytest
import torch

from tests import tiny
from tests.probes.texts import panel
from workbench import suffix
from workbench.activations import HookedLM, evaluating
from workbench.adapters import with_lora
from workbench.errors import InvalidValueError, ModelError
from workbench.suffix import can_enter, prompts_of, repeated, run_from, streams

KINDS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
         "full_attention"]  # fmt: skip
DEEP = {
    "llama": lambda: tiny.llama(num_hidden_layers=5),
    "gpt2": lambda: tiny.gpt2(n_layer=5),
    "qwen3": lambda: tiny.qwen3(num_hidden_layers=5),
    "qwen3-mixed": lambda: tiny.qwen3(
        num_hidden_layers=5, layer_types=KINDS, sliding_window=6, use_sliding_window=True
    ),
    "gemma3": lambda: tiny.gemma3(num_hidden_layers=5, layer_types=KINDS, sliding_window=6),
    "lora": lambda: with_lora(tiny.llama(num_hidden_layers=5), rank=2, alpha=4.0),
}


@pytest.fixture(scope="module", params=DEEP)
def lm(request):
    return HookedLM(DEEP[request.param]().eval())


@pytest.fixture(params=["right", "left"])
def batch(request):
    return panel(request.param).batch("hazard")


@torch.no_grad()
def in_full(lm, batch, stream, start):
    """The obvious way: all blocks, the edit, what comes after each block."""
    site = f"resid_pre.{start}" if start < lm.n_layers else suffix.last(lm)
    with lm.record("resid_post") as acts, lm.intervene({site: lambda x, _: stream}):
        lm(batch)
    return list(acts.values())


def edited(h, batch, scale=0.5):
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(3))
    return h + scale * noise * batch.attention_mask[..., None]


@pytest.mark.parametrize("start", range(6))
def test_an_edited_stream_runs_on_as_in_a_full_pass(lm, batch, start):
    h = edited(streams(lm, batch)[start], batch)
    full = in_full(lm, batch, h, start)
    real = batch.attention_mask
    for stop in {start, min(start + 1, 5), 5}:
        with torch.no_grad():
            ours = run_from(lm, batch, h, start, stop)
        theirs = h if stop == start else full[stop - 1]
        assert torch.equal(ours[real], theirs[real]), stop
    assert start == lm.n_layers or can_enter(lm, start)


def test_every_family_is_entered_everywhere(lm):
    assert all(can_enter(lm, start) for start in range(lm.n_layers))


def test_a_clean_pass_gives_every_layer_and_runs_on_unchanged(lm, batch):
    clean = streams(lm, batch)
    assert clean.shape[:3] == (6, *batch.input_ids.shape)
    with lm.record("resid_pre") as acts, torch.no_grad():
        lm(batch)
    assert torch.equal(clean[:-1], torch.stack(list(acts.values())))
    with torch.no_grad():
        assert torch.equal(run_from(lm, batch, clean[2], 2), clean[-1])


def test_a_block_keeps_the_attention_of_its_place():
    """With the masks of other places the answer is another one, so the test above can fail."""
    lm = HookedLM(DEEP["gemma3"]())
    batch = panel().batch("hazard")
    h = edited(streams(lm, batch)[1], batch)
    swapped = tiny.gemma3(num_hidden_layers=5, layer_types=[*KINDS[1:], KINDS[0]], sliding_window=6)
    swapped.load_state_dict(lm.model.state_dict())
    with torch.no_grad():
        ours, other = (run_from(m, batch, h, 1) for m in (lm, HookedLM(swapped)))
    assert not torch.allclose(ours[batch.attention_mask], other[batch.attention_mask], atol=1e-2)


def test_gradients_are_those_of_a_full_pass(lm, batch):
    h = edited(streams(lm, batch)[2], batch)
    grads = []
    for run in (run_from, suffix._in_full):
        leaf = h.clone().requires_grad_()
        more = () if run is run_from else (lm.n_layers,)
        out = run(lm, batch, leaf, 2, *more)
        grads += torch.autograd.grad(out[batch.response_mask].sin().sum(), leaf)
    assert torch.equal(*grads) and grads[0].abs().max() > 0


def test_many_edits_at_once_are_each_alone(lm, batch):
    h = streams(lm, batch)[1]
    edits = [edited(h, batch, scale) for scale in (0.1, 0.5, 2.0)]
    with torch.no_grad():
        together = run_from(lm, repeated(batch, 3), torch.cat(edits), 1)
        for one, part in zip(edits, together.chunk(3), strict=True):
            alone = run_from(lm, batch, one, 1)
            torch.testing.assert_close(part, alone, rtol=1e-4, atol=1e-4)


def test_responses_do_not_change_what_comes_before(lm, batch):
    bare = prompts_of(batch)
    whole, short = streams(lm, batch), streams(lm, bare)
    prompt = batch.attention_mask & ~batch.response_mask
    torch.testing.assert_close(
        whole[:, prompt], short[:, bare.attention_mask], rtol=1e-4, atol=1e-4
    )
    assert bare.input_ids.shape[1] <= batch.input_ids.shape[1] and not bare.response_mask.any()


def test_sites_above_fire_and_the_model_is_left_alone(lm, batch):
    clean = streams(lm, batch)
    with lm.record("resid_post.3", "resid_post.4") as acts, torch.no_grad():
        out = run_from(lm, batch, clean[3], 3)
    assert torch.equal(acts["blocks.4.hook_resid_post"], out)
    assert len(lm.parts.blocks) == 5 and not any(
        m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules()
    )


def test_a_family_that_cannot_be_entered_runs_in_full(monkeypatch, batch):
    lm = HookedLM(DEEP["llama"]())
    h = edited(streams(lm, batch)[3], batch)
    entered = run_from(lm, batch, h, 3)
    fresh = HookedLM(lm.model)

    def gives_a_pair(self, hidden_states, *args, **kwargs):
        return (hidden_states, None)

    monkeypatch.setattr(suffix.Bypass, "forward", gives_a_pair)
    assert not can_enter(fresh, 3)
    ran = []
    blocks = fresh.parts.blocks
    handle = blocks[0].register_forward_hook(lambda *_: ran.append(1))
    assert torch.equal(run_from(fresh, batch, h, 3), entered) and ran
    handle.remove()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (2, 6), (6, 6)])
def test_layers_that_do_not_exist_are_refused(lm, start, stop):
    batch = panel().batch("hazard")
    with pytest.raises(InvalidValueError, match=r"layers 0 \(the embeddings\) to 5"):
        run_from(lm, batch, streams(lm, batch)[0], start, stop)


def test_weights_that_are_not_finite_are_named_by_layer():
    model = tiny.llama(num_hidden_layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite at layer 2"):
        streams(HookedLM(model, check=False), panel().batch("hazard"))


def test_the_mode_is_left_as_it_was():
    model = tiny.llama().train()
    lm = HookedLM(model, check=False)
    streams(lm, panel().batch("hazard"))
    assert can_enter(lm, 1) and model.training
    with evaluating(model):
        assert not model.training
