"""How pushes grow: closed forms, the slow way, invariants, bad input."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import InvalidValueError, ModelError
from workbench.perturbations import matched, random_directions
from workbench.positions import kept_positions
from workbench.probes._amplification import lengths_of, shifts, sigma_max
from workbench.probes._damper import any_direction, damp, fitted
from workbench.probes.amplification import Butterfly
from workbench.readout import read_out
from workbench.rows import Amplification, Damper
from workbench.suffix import prompts_of, run_from, streams


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def lm(request):
    return HookedLM(tiny.FAMILIES[request.param]())


@pytest.fixture(params=["last_prompt", "response"])
def where(request):
    batch = panel("left").batch("hazard")
    batch = prompts_of(batch) if request.param == "last_prompt" else batch
    return batch, kept_positions(batch, request.param)


def push(lm, batch, keep, layer, epsilon=0.05, draws=3):
    clean = streams(lm, batch)
    lengths = keep.sum(1).tolist()
    ways = random_directions(batch.examples, lengths, clean.shape[-1], draws, layer)
    delta = epsilon * matched(ways, clean[layer, keep])
    return clean, delta, shifts(lm, batch, clean, layer, keep, delta)


def identity_blocks(model):
    """Blocks that add nothing to the stream."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "c_proj")):
                weight.zero_()
    return model


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_growth_equals_full_passes_one_push_at_a_time(lm, where, layer):
    batch, keep = where
    clean, delta, found = push(lm, batch, keep, layer)
    site = f"resid_pre.{layer}" if layer < 2 else "resid_post.1"
    for draw, one in enumerate(delta):

        def moved(x, _, one=one):
            x = x.clone()
            x[keep] += one
            return x

        with lm.record("resid_post") as acts, lm.intervene({site: moved}), torch.no_grad():
            lm(batch)
        after = [clean[layer][keep] + one, *(x[keep] for x in list(acts.values())[layer:])]
        lengths = keep.sum(1).tolist()
        parts = [(x - h[keep]).split(lengths) for x, h in zip(after, clean[layer:], strict=True)]
        for above, shift in enumerate(parts):
            for i, (s, d) in enumerate(zip(shift, one.split(lengths), strict=True)):
                gain = s.norm() / d.norm()
                assert found.gain()[above, draw, i] == pytest.approx(gain.item(), rel=1e-3)
                cosine = (s * d).sum() / s.norm() / d.norm()
                angle = math.degrees(math.acos(min(1.0, cosine.item())))
                assert found.angle()[above, draw, i] == pytest.approx(angle, abs=0.15)
                own = clean[layer + above][keep].split(lengths)[i].norm()
                start = clean[layer][keep].split(lengths)[i].norm()
                assert found.relative()[above, draw, i] == pytest.approx(
                    (gain * start / own).item(), rel=1e-3
                )


def test_no_block_no_growth(lm, where):
    for layer in range(3):
        found = push(lm, *where, layer)[2]
        assert (found.gain()[0] == 1).all() and (found.angle()[0] == 0).all()
        assert len(found.values) == 3 - layer


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_that_add_nothing_let_pushes_through(family, where):
    lm = HookedLM(identity_blocks(tiny.FAMILIES[family]()))
    found = push(lm, *where, 0)[2]
    torch.testing.assert_close(found.gain(), torch.ones_like(found.gain()), rtol=1e-4, atol=1e-4)
    assert found.angle().max() < 0.05


def test_linear_blocks_multiply():
    """Blocks h + W h: what arrives is the product of the (I + W), and σ_max is its norm."""
    lm = HookedLM(identity_blocks(tiny.llama(num_hidden_layers=3)))
    source = torch.Generator().manual_seed(0)
    weights = [0.3 * torch.randn(32, 32, generator=source) for _ in range(3)]
    edits = {f"resid_post.{i}": lambda x, _, w=w: x + x @ w.T for i, w in enumerate(weights)}
    batch = prompts_of(panel().batch("hazard"))
    keep = kept_positions(batch, "last_prompt")
    with lm.intervene(edits):
        for start in range(3):
            _, delta, found = push(lm, batch, keep, start)
            product = torch.eye(32)
            for above in range(1, 4 - start):
                product = product + weights[start + above - 1] @ product
                expected = (delta @ product.T).norm(dim=-1) / delta.norm(dim=-1)
                torch.testing.assert_close(found.gain()[above], expected, rtol=1e-3, atol=1e-3)
        largest = sigma_max(lm, batch, streams(lm, batch)[1], 1, 3, keep, 25)
        norm = torch.linalg.matrix_norm(
            (torch.eye(32) + weights[2]) @ (torch.eye(32) + weights[1]), 2
        )
        torch.testing.assert_close(largest, norm.expand(len(batch)), rtol=0.1, atol=0)
        assert (largest <= 1.001 * norm).all()  # it comes from below


def test_a_small_push_twice_as_long_grows_alike(lm, where):
    batch, keep = where
    for layer in range(3):
        one, two = (push(lm, batch, keep, layer, epsilon)[2] for epsilon in (1e-3, 2e-3))
        torch.testing.assert_close(one.gain(), two.gain(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_longer_final_state_says_the_same(family):
    """The final RMSNorm divides by the length, so a push along h_L leaves the logits."""
    lm = HookedLM(tiny.FAMILIES[family]())
    final = streams(lm, panel().batch("hazard"))[-1]
    read = read_out(lm)
    with torch.no_grad():
        torch.testing.assert_close(read(1.1 * final), read(final), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("positions", ["last_prompt", "response:2"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_sigma_max_is_that_of_the_jacobian_and_no_small_push_beats_it(lm, positions):
    batch = panel("left").batch("hazard").rows([1, 3])
    keep = kept_positions(batch, positions)
    clean, lengths = streams(lm, batch), keep.sum(1).tolist()
    for start, stop in ((0, 2), (1, 2), (1, 1)):
        found = sigma_max(lm, batch, clean[start], start, stop, keep, steps=25)

        def blocks(rows, start=start, stop=stop):
            whole = clean[start].masked_scatter(keep[..., None], rows)
            return run_from(lm, batch, whole, start, stop)[keep]

        rows = clean[start][keep]
        with sdpa_kernel(SDPBackend.MATH):
            whole = jacrev(blocks)(rows)
        ends = torch.tensor([0, *lengths]).cumsum(0)
        for i, (a, b) in enumerate(pairwise(ends)):
            jacobian = whole[a:b, :, a:b].reshape((b - a) * 32, -1)
            largest = torch.linalg.svdvals(jacobian)[0].item()
            assert found[i] == pytest.approx(largest, rel=0.02)
        sampled = push(lm, batch, keep, start, 1e-3)[2].gain()[stop - start]
        assert (sampled <= 1.02 * found).all()
        few = sigma_max(lm, batch, clean[start], start, stop, keep, steps=1)
        assert (few <= found * 1.001).all()


def test_a_damper_takes_out_what_it_knows():
    """Pushes along one shared direction vanish at the layer where it is taken out."""
    lm, batch = HookedLM(tiny.llama()), prompts_of(panel().batch("hazard"))
    keep, clean = kept_positions(batch, "last_prompt"), streams(lm, batch)
    way = random_directions(["one"], [1], 32, 1, 0).expand(1, len(batch), 32)
    found = shifts(lm, batch, clean, 1, keep, 0.05 * matched(way, clean[1, keep]))
    own = fitted(found.values[0], found.clean[0], found.lengths)
    torch.testing.assert_close(own.unit.norm(dim=-1), torch.ones(len(batch)))
    gain, side = damp(lm, batch, clean, keep, found, 1, own)
    assert gain.max() < 1e-3 and (side > 0).all()
    other = any_direction(own, "control")
    gain, _ = damp(lm, batch, clean, keep, found, 1, other)
    assert (gain / found.gain()[-1]).median() > 0.5


def test_damping_equals_the_obvious_computation():
    lm, batch = HookedLM(tiny.gpt2()), prompts_of(panel().batch("hazard"))
    keep = kept_positions(batch, "last_prompt")
    clean, _, found = push(lm, batch, keep, 0, draws=1)
    own = fitted(found.values[1], found.clean[1], found.lengths)
    gain, side = damp(lm, batch, clean, keep, found, 1, own)
    ends = []
    for h in (found.clean[1], found.clean[1] + found.values[1, 0]):
        along = ((h - own.centre) * own.unit).sum(-1, keepdim=True)
        whole = clean[1].clone()
        whole[keep] = h - along * own.unit
        with lm.intervene({"resid_pre.1": lambda x, _, w=whole: w}), lm.record("resid_post.1") as a:
            lm(batch)
        ends.append(next(iter(a.values()))[keep])
    expected = (ends[1] - ends[0]).norm(dim=-1) / found.values[0, 0].norm(dim=-1)
    torch.testing.assert_close(gain[0], expected, rtol=1e-3, atol=1e-4)
    moved = (ends[0] - clean[-1][keep]).norm(dim=-1) / clean[-1][keep].norm(dim=-1)
    torch.testing.assert_close(side, moved, rtol=1e-3, atol=1e-5)


def test_each_half_is_damped_with_what_the_other_half_shows():
    shift = torch.zeros(1, 4, 8)
    shift[0, [0, 2], 0], shift[0, [1, 3], 1] = 1.0, 1.0
    own = fitted(shift, torch.arange(4.0)[:, None].expand(4, 8).clone(), [1, 1, 1, 1])
    assert own.unit[[0, 2], 1].abs().tolist() == [1, 1] and own.centre[0, 0] == 2
    assert own.unit[[1, 3], 0].abs().tolist() == [1, 1] and own.centre[1, 0] == 1


def test_rows_cover_every_pair_of_layers():
    rows = rows_of(Butterfly(power_steps=2), tiny.llama(seed=0), tiny.llama(seed=1))
    grown = [r for r in rows if isinstance(r, Amplification)]
    assert {r.family for r in grown} == {"random", "gradient", "steering", "real", "worst"}
    for r in grown:
        assert len(r.values) == 3 - r.from_layer
        assert r.n == (24 if r.family == "random" else 6)
        if r.measure == "gain":
            assert r.values[0] == pytest.approx(1, rel=1e-5)
    worst = {r.from_layer: r.values for r in grown if r.family == "worst"}
    assert set(worst) == {0, 1, 2}
    dampers = [r for r in rows if isinstance(r, Damper)]
    assert {(r.family, r.measure) for r in dampers} == {
        (f, m) for f in ("gradient", "steering", "real") for m in ("fall", "control", "side_effect")
    }
    assert all(len(r.values) == 2 and r.from_layer == 1 for r in dampers)


def test_a_checkpoint_that_has_not_moved_has_no_way_of_its_own():
    rows = rows_of(Butterfly(), tiny.llama(), tiny.llama())
    assert {r.family for r in rows} == {"random", "gradient", "steering"}
    alone = rows_of(Butterfly(), tiny.llama(), None)
    assert [vars(r) for r in alone] == [vars(r) for r in rows]


def test_a_shared_last_token_cannot_be_steered_at_the_embeddings():
    """All prompts end in the template's same token, so the two means do not differ there."""
    rows = rows_of(Butterfly(damped=None), tiny.llama(), None)
    assert {r.from_layer for r in rows if r.family == "steering"} == {1, 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"epsilon": 0.0}, "above 0"), ({"epsilon": -0.1}, "above 0"), ({"draws": 0}, "at least 1"),
     ({"prompts": 0}, "at least 1"), ({"power_steps": -1}, "at least 0"),
     ({"damped_from": 3}, "this model has layers 0"), ({"damped_from": -1}, "layers 0")],
)  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InvalidValueError, match=message):
        rows_of(Butterfly(**settings), tiny.llama(), None)


def test_weights_that_are_not_finite_are_refused():
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite at layer 2"):
        rows_of(Butterfly(), model, None)


def test_no_steps_no_sigma(lm):
    batch = prompts_of(panel().batch("hazard"))
    keep = kept_positions(batch, "last_prompt")
    with pytest.raises(InvalidValueError, match="at least one step"):
        sigma_max(lm, batch, streams(lm, batch)[0], 0, 1, keep, steps=0)


def test_rows_of_one_example_are_one_vector():
    x = torch.arange(12.0).view(1, 4, 3)
    found = lengths_of(x, [1, 3])
    assert found[0].tolist() == pytest.approx([x[0, :1].norm().item(), x[0, 1:].norm().item()])
