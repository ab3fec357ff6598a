"""Logit lens: a loop over layers as oracle, the output at the last layer, and invariants."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import InvalidValueError
from workbench.final_states import begun
from workbench.probes import LogitLens
from workbench.probes._refusals import refusal_starts
from workbench.probes.lens import between, from_here_on, lens, lens_states
from workbench.vocabulary_pass import describe


def gemma2(seed=0):
    config = Gemma2Config(**tiny._SIZES, final_logit_softcapping=3.0)
    return tiny._make(Gemma2ForCausalLM, config, seed)


def cohere(seed=0):
    return tiny._make(CohereForCausalLM, CohereConfig(**tiny._SIZES, logit_scale=0.25), seed)


FAMILIES = {**tiny.FAMILIES, "gemma2": gemma2, "cohere": cohere}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return FAMILIES[request.param](seed=0), FAMILIES[request.param](seed=1)


def logits(layer):
    tiles = layer.tiles(0, len(layer.values))
    return tiles(0, tiny.VOCABULARY)


def plain(model, batch):
    """Hidden states by transformers' own means, final norm and head by hand."""
    lm = HookedLM(model, check=False)
    out = lm(batch, output_hidden_states=True)
    config, base = model.config, model.get_decoder()
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    layers = [norm(h) for h in out.hidden_states[:-1]] + [out.hidden_states[-1]]
    for h in layers:  # the last of transformers' hidden states is normed already
        z = model.lm_head(h[:, :-1][batch.scored]) * getattr(config, "logit_scale", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        yield z if cap is None else cap * (z / cap).tanh()


@torch.no_grad()
def test_equals_a_plain_loop_over_layers(pair):
    batch = begun(panel().batch("hazard"), 3)
    layers = lens_states(pair[0], batch)
    expected = list(plain(pair[0], batch))
    assert len(layers) == len(expected) == 3
    chosen = refusal_starts(panel())
    found = lens(layers, chosen)
    final = expected[-1].double().log_softmax(-1)
    targets = batch.input_ids[:, 1:][batch.scored]
    for i, (layer, z) in enumerate(zip(layers, expected, strict=True)):
        torch.testing.assert_close(logits(layer), z, rtol=1e-4, atol=1e-4)
        p = z.double().log_softmax(-1)
        own = p.gather(1, targets[:, None])
        wanted = {
            "kl_to_final": F.kl_div(final, p, log_target=True, reduction="none").sum(-1),
            "entropy": -(p.exp() * p).sum(-1),
            "nll": -own[:, 0],
            "rank": (p > own + 1e-6).sum(-1).double(),
            "refusal_mass": p[:, chosen].exp().sum(-1),
        }
        for name, values in wanted.items():
            torch.testing.assert_close(found[name][i].double(), values, rtol=1e-3, atol=1e-4)
    agree = torch.stack([z.argmax(-1) for z in expected]) == expected[-1].argmax(-1)
    committed = [[bool(agree[i:, j].all()) for j in range(agree.shape[1])] for i in range(3)]
    assert found["committed"].bool().tolist() == committed


@torch.no_grad()
def test_the_last_layer_is_the_models_own_output(pair):
    batch = begun(panel().batch("benign"), 4)
    own = HookedLM(pair[0])(batch).logits[:, :-1][batch.scored]
    layers = lens_states(pair[0], batch)
    torch.testing.assert_close(logits(layers[-1]), own, rtol=1e-5, atol=1e-5)
    found = lens(layers, None)
    assert not found["kl_to_final"][-1].any() and found["committed"][-1].all()
    assert "refusal_mass" not in found


@torch.no_grad()
def test_each_row_is_a_distribution():
    for layer in lens_states(tiny.llama(), begun(panel().batch("hazard"), 2)):
        every = torch.arange(tiny.VOCABULARY)
        mass = describe(layer, every, chunk=50).mass
        torch.testing.assert_close(mass, torch.ones_like(mass))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_size_of_a_state_does_not_matter_to_rms_norm(scale):
    model = tiny.llama()
    lm = HookedLM(model)
    batch = begun(panel().batch("hazard"), 2)
    plain_lens = lens(lens_states(model, batch), None)
    with lm.intervene({"resid_post.0": lambda x, _: scale * x}):
        scaled = lens(lens_states(model, batch), None)
    for name in ("entropy", "nll"):  # of layer 1; what follows it reads other states
        torch.testing.assert_close(scaled[name][1], plain_lens[name][1], rtol=1e-3, atol=1e-3)


def test_between_a_model_and_itself_there_is_nothing(pair):
    batch = begun(panel().batch("hazard"), 2)
    one, two = (lens_states(model, batch) for model in pair)
    assert not between(one, one).any()
    assert (between(one, two) > 0).all()
    with pytest.raises(InvalidValueError, match="2 blocks, the reference 1"):
        between(one, two[:-1])


def test_a_layer_that_is_changed_shows_from_there_on():
    model, changed = tiny.llama(), tiny.llama()
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    rows = [r for r in rows_of(LogitLens(), changed, model) if r.measure == "kl_to_reference"]
    for row in rows:
        assert row.values[:2] == [0, 0] and row.values[2] > 0


def test_commitment_is_for_good():
    agrees = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    committed = from_here_on(agrees)
    assert committed.int().T.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]


def test_one_model_needs_no_reference():
    rows = rows_of(LogitLens(positions=2), tiny.llama(), None)
    assert {r.whose for r in rows} == {"checkpoint"}
    assert not [r for r in rows if r.measure == "kl_to_reference"]
    assert {r.position for r in rows} == {0, 1} and {len(r.values) for r in rows} == {3}
    assert {r.prompts for r in rows} == {6}
    for row in rows:
        if row.measure in ("committed", "refusal_mass"):
            assert all(0 <= v <= 1 for v in row.values)
    compared = rows_of(LogitLens(positions=2), tiny.llama(), tiny.llama(seed=1))
    alone = {(r.group, r.position, r.measure): r.values for r in rows}
    for row in compared:
        if row.whose == "checkpoint" and row.measure != "kl_to_reference":
            assert row.values == alone[row.group, row.position, row.measure]


@pytest.mark.parametrize("setting", [{"positions": 0}, {"chunk": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(InvalidValueError, match="at least 1, not 0"):
        LogitLens(**setting)
