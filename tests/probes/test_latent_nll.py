"""Pushed states and the likelihood of the refusal: the slow way, sizes, masks, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import InvalidValueError, MissingStreamError, ModelError
from workbench.losses import token_nll
from workbench.perturbations import (
    delta_nll,
    matched,
    nll_gradients,
    pushed,
    random_directions,
    response_nll,
)
from workbench.probes.latent_nll import LatentNLL, latent_landscape, pushed_tokens
from workbench.readout import read_out
from workbench.suffix import streams


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def lm(request):
    return HookedLM(tiny.FAMILIES[request.param]())


@pytest.fixture(params=["right", "left"])
def batch(request):
    return panel(request.param).batch("refused")


def mean_nll(logits, batch):
    return token_nll(logits, batch).sum(1) / batch.scored.sum(1)


@torch.no_grad()
def slowly(lm, batch, layer, keep, delta):
    """One full pass a push, the model's own logits, the loss that training uses."""
    site = f"resid_pre.{layer}" if layer < lm.n_layers else f"resid_post.{layer - 1}"

    def push(x, _):
        moved = x.clone()
        moved[keep] += delta
        return moved

    with lm.intervene({site: push}):
        after = lm(batch).logits
    return mean_nll(after, batch) - mean_nll(lm(batch).logits, batch)


@pytest.mark.parametrize("positions", ["last_prompt", "scored"])
def test_delta_nll_equals_full_passes_with_the_same_push(lm, batch, positions):
    clean, keep = streams(lm, batch), pushed_tokens(batch, positions)
    lengths = keep.sum(1).tolist()
    for layer, stream in enumerate(clean):
        delta = 0.3 * matched(
            random_directions(batch.examples, lengths, stream.shape[-1], 3, layer), stream[keep]
        )
        ours = delta_nll(lm, batch, stream, layer, keep, delta)
        for one, push in zip(ours, delta, strict=True):
            torch.testing.assert_close(
                one, slowly(lm, batch, layer, keep, push), rtol=1e-3, atol=1e-4
            )


def test_no_push_changes_nothing_to_the_last_bit(lm, batch):
    keep = pushed_tokens(batch, "scored")
    for layer, stream in enumerate(streams(lm, batch)):
        delta = torch.zeros(5, int(keep.sum()), stream.shape[-1])
        assert (delta_nll(lm, batch, stream, layer, keep, delta) == 0).all()


def test_the_likelihood_is_that_of_the_response_alone(lm, batch):
    with torch.no_grad():
        expected = mean_nll(lm(batch).logits, batch)
        ours = response_nll(read_out(lm), batch, streams(lm, batch)[-1])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_masked_loss(lm, batch):
    ours = nll_gradients(lm, batch)
    for layer in range(lm.n_layers):
        leaf = streams(lm, batch)[layer].requires_grad_()
        with lm.intervene({f"resid_pre.{layer}": lambda x, _, leaf=leaf: leaf}):
            (theirs,) = torch.autograd.grad(mean_nll(lm(batch).logits, batch).sum(), leaf)
        real = batch.attention_mask
        torch.testing.assert_close(ours[layer][real], theirs[real], rtol=1e-3, atol=1e-5)


def test_frozen_weights_have_gradients_of_states_too(batch):
    model = tiny.llama().requires_grad_(False)
    assert nll_gradients(HookedLM(model), batch).abs().max() > 0


@given(st.integers(2, 40), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_matched_pushes_are_as_long_as_the_states(d_model, small, large, seed):
    source = torch.Generator().manual_seed(seed)
    delta = small * torch.randn(3, 4, d_model, generator=source, dtype=torch.float64)
    h = large * torch.randn(4, d_model, generator=source, dtype=torch.float64)
    for scaling in ("norm", "moments"):
        push = matched(delta, h, scaling)
        torch.testing.assert_close(push.norm(dim=-1), h.norm(dim=-1).expand(3, 4))
        if scaling == "moments":
            torch.testing.assert_close(push.mean(-1), h.mean(-1).expand(3, 4))
            torch.testing.assert_close(push.std(-1), h.std(-1).expand(3, 4))
        else:
            cosine = torch.cosine_similarity(push, delta, dim=-1)
            torch.testing.assert_close(cosine, torch.ones_like(cosine))
        assert (matched(0 * delta, h, scaling) == 0).all()


@pytest.mark.parametrize("positions", ["last_prompt", "scored"])
def test_only_the_chosen_tokens_are_pushed(lm, batch, positions):
    stream, keep = streams(lm, batch)[0], pushed_tokens(batch, positions)
    delta = torch.ones(2, int(keep.sum()), stream.shape[-1])
    moved = pushed(stream, keep, delta) != stream.repeat(2, 1, 1)
    assert torch.equal(moved.all(-1), keep.repeat(2, 1)) and not moved[~keep.repeat(2, 1)].any()
    assert not (keep & ~batch.attention_mask).any()
    last = (batch.attention_mask & ~batch.response_mask).sum(1) - 1  # from the first real token
    at = [batch.position_ids[i][keep[i]].tolist() for i in range(len(batch))]
    for here, first, n in zip(at, last.tolist(), batch.response_mask.sum(1).tolist(), strict=True):
        assert here == ([first] if positions == "last_prompt" else [*range(first, first + n)])


def test_directions_do_not_depend_on_their_neighbours():
    both = random_directions(["a", "b"], [1, 3], 8, 4, "key")
    assert torch.equal(both[:, 1:], random_directions(["b"], [3], 8, 4, "key"))
    assert not torch.equal(both[:, :1], random_directions(["a"], [1], 8, 4, "other"))


def test_small_pushes_are_the_first_order(lm):
    """Δ NLL / ε tends to the directional derivative."""
    batch = panel().batch("refused")
    keep, grads = pushed_tokens(batch, "last_prompt"), nll_gradients(lm, batch)
    for layer, stream in enumerate(streams(lm, batch)):
        way = matched(grads[layer][keep], stream[keep])
        slope = (grads[layer][keep] * way).sum(-1)
        found = delta_nll(lm, batch, stream, layer, keep, 1e-3 * way[None])[0]
        torch.testing.assert_close(found / 1e-3, slope, rtol=0.1, atol=0.02)


def test_the_plane_holds_its_axes():
    lm, batch = HookedLM(tiny.llama()), panel().batch("refused")
    keep, stream = pushed_tokens(batch, "last_prompt"), streams(HookedLM(tiny.llama()), batch)[1]
    one, two = random_directions(batch.examples, [1] * len(batch), 32, 2, 5)
    shares = torch.tensor([-0.5, 0.0, 0.5])
    plane = latent_landscape(lm, batch, 1, one, two, shares)
    assert plane.shape == (3, 3, len(batch)) and (plane[1, 1] == 0).all()
    along = delta_nll(lm, batch, stream, 1, keep, 0.5 * matched(one, stream[keep])[None])[0]
    torch.testing.assert_close(plane[2, 1], along, rtol=1e-4, atol=1e-5)


SETTINGS = [{}, {"epsilons": (0.1, 1.0), "draws": 2, "positions": "scored"},
            {"towards": "harmful", "sign": True, "scaling": "moments", "positions": "scored"},
            {"towards": "harmful", "prompts": 2}]  # fmt: skip


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_rows_hold_every_draw_of_every_prompt(given):
    probe = LatentNLL(**given)
    rows = rows_of(probe, tiny.llama(), None)
    prompts = min(6, probe.prompts)
    assert len(rows) == prompts * (probe.draws + 1) * len(probe.epsilons)
    assert {r.group for r in rows} == {"refused"} and {len(r.values) for r in rows} == {3}
    keys = {(r.family, r.draw, r.epsilon, r.example) for r in rows}
    assert len(keys) == len(rows)
    model, batch = tiny.llama(), panel().batch("refused", probe.prompts)
    clean = mean_nll(HookedLM(model)(batch).logits, batch)
    assert {r.example: r.clean for r in rows} == pytest.approx(
        dict(zip(batch.examples, clean.tolist(), strict=True)), rel=1e-4
    )


def test_a_gradient_does_more_than_chance():
    rows = rows_of(LatentNLL(epsilons=(0.02,)), tiny.llama(), None)
    means = {f: torch.tensor([r.values for r in rows if r.family == f]).mean(0)
             for f in ("random", "gradient")}  # fmt: skip
    assert (means["gradient"] > 2 * means["random"].abs()).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"epsilons": (0.0,)}, "above 0"), ({"epsilons": (0.1, -1.0)}, "above 0"),
     ({"epsilons": ()}, "one or more"), ({"epsilons": (float("nan"),)}, "each a number"),
     ({"draws": 0}, "at least 1"), ({"prompts": 0}, "at least 1")],
)  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InvalidValueError, match=message):
        rows_of(LatentNLL(**settings), tiny.llama(), None)


def test_a_domain_without_refusals_is_named():
    with pytest.raises(MissingStreamError):
        rows_of(LatentNLL(), tiny.llama(), None, panel(refusals=False))


def test_layers_that_do_not_exist_and_empty_responses_are_refused(batch):
    lm = HookedLM(tiny.llama())
    stream, keep = streams(lm, batch)[0], pushed_tokens(batch, "last_prompt")
    delta = torch.zeros(1, len(batch), 32)
    with pytest.raises(InvalidValueError, match="this model has layers 0"):
        delta_nll(lm, batch, stream, 3, keep, delta)
    mute = Batch(batch.input_ids, batch.attention_mask, torch.zeros_like(keep), batch.examples)
    for use in (lambda: pushed_tokens(mute, "scored"), lambda: nll_gradients(lm, mute)):
        with pytest.raises(InvalidValueError, match="no such token"):
            use()


def test_weights_that_are_not_finite_are_refused():
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        rows_of(LatentNLL(), model, None)
