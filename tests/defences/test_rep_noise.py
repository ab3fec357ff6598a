"""RepNoise: its terms beside the obvious computation, their signs, its pairs, its two variants."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.activations.families import make
from tests.test_defences import hooks
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, Example, Stream, encode
from workbench.defences import rep_noise
from workbench.defences._answers import Answers, by_difference
from workbench.defences.rep_noise import RepNoise, distance_from_noise
from workbench.discrepancy import mmd
from workbench.errors import InvalidValueError, MissingStreamError, SiteError, TrainingError
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.readout import ReadOut, read_out
from workbench.training import Context, Mean
from workbench.training import fit as train

FIT = Fit(steps=3, lr=1e-2, batch_size=4, warmup=0)
TEXTS = {
    "harmful": [Example(str(i), f"say {i}", "word " * (i % 4 + 1)) for i in range(8)],
    "refusal": [Example(str(i), f"say {i}", "no" * ((i + 1) % 3 + 1)) for i in range(8)],
    "retain": [Example(f"r{i}", f"tell {i}", "tide " * (i % 3 + 1)) for i in range(8)],
}
BATCHES = {name: encode(tiny.tokenizer(), texts[:4]) for name, texts in TEXTS.items()}
HARMFUL, REFUSAL = BATCHES["harmful"], BATCHES["refusal"]
VARIANTS = ["corrected", "released"]


def streams(batch_size=4, names=("harmful", "refusal")):
    paired = {"refusal": "harmful"}
    return {
        name: Stream(name, TEXTS[name], tiny.tokenizer(), batch_size, like=paired.get(name, ""))
        for name in names
    }


def context(seed=0):
    return Context(0, 10, torch.Generator().manual_seed(seed), Accelerator())


def terms(method, lm, batches=BATCHES, seed=0):
    return method.loss(lm, batches, context(seed))


@pytest.fixture(params=tiny.FAMILIES)
def lm(request):
    return HookedLM(tiny.FAMILIES[request.param]())


def obvious(lm, beta, alpha, seed=0):
    """All logits at all depths at once, from transformers' own hidden states."""
    read, generator = read_out(lm), torch.Generator().manual_seed(seed)
    with lm.record("mlp_module_out", grad=True) as acts:
        out = lm(HARMFUL, output_hidden_states=True)
    mask = HARMFUL.response_mask[..., None]
    far = []
    for name in lm.resolve("mlp_module_out"):
        noise = torch.randn(acts[name].shape, generator=generator)
        far.append(mmd((acts[name] * mask).flatten(1), (noise * mask).flatten(1)))
    depths = [read(h) for h in out.hidden_states[:-1]] + [out.logits]
    assert len(depths) == lm.n_layers + 1
    losses = [cross_entropy(logits, HARMFUL) for logits in depths]
    return {
        "stability": cross_entropy(lm(REFUSAL).logits, REFUSAL),
        "noise": beta * sum(far) / len(far),
        "ascent": -alpha * torch.log(1 + sum(losses) / len(losses)),
    }


def test_terms_and_gradients_equal_the_obvious_computation(lm):
    method, grads = RepNoise(alpha=0.7, beta=2.0), []
    ours, theirs = terms(method, lm), obvious(lm, 2.0, 0.7)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=name)
    for found in (ours, theirs):
        lm.model.zero_grad()
        sum(found.values()).backward()
        grads.append([p.grad for p in lm.model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-4 * float(b.abs().max() + 1e-3))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 10), st.sampled_from(VARIANTS))
def test_signs(seed, alpha, variant):
    found = terms(RepNoise(alpha=alpha, beta=1.0, variant=variant), HookedLM(tiny.llama(seed)))
    assert found["ascent"] <= 0
    assert -1e-5 <= found["noise"] < 10
    assert found["stability"] >= 0


def test_a_weight_of_zero_leaves_its_term_out():
    lm = HookedLM(tiny.llama())
    assert terms(RepNoise(alpha=0.0), lm).keys() == {"stability", "noise"}
    assert terms(RepNoise(beta=0.0), lm).keys() == {"stability", "ascent"}
    assert terms(RepNoise().matched_control(), lm).keys() == {"stability"}


def test_retain_is_drawn_only_if_it_counts():
    lm, kept = HookedLM(tiny.llama()), RepNoise(retain_weight=0.5)
    assert RepNoise().draws == ("harmful", "refusal")
    assert kept.draws == kept.streams == ("harmful", "refusal", "retain")
    expected = 0.5 * cross_entropy(lm(BATCHES["retain"]).logits, BATCHES["retain"])
    torch.testing.assert_close(terms(kept, lm)["retain"], expected)
    with pytest.raises(MissingStreamError, match="retain"):
        replace(kept, fit=FIT).immunise(tiny.llama(), streams())
    replace(kept, fit=FIT).immunise(tiny.llama(), streams(names=TEXTS))


# --- the noise


def test_noise_is_drawn_anew_and_only_from_the_methods_generator():
    lm, method, step = HookedLM(tiny.llama()), RepNoise(alpha=0.0, beta=1.0), context()
    state = torch.get_rng_state()
    first, second = (method.loss(lm, BATCHES, step)["noise"] for _ in "ab")
    assert first != second
    assert terms(method, lm)["noise"] == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_masked_positions_are_compared_and_every_layer_has_its_own_noise(variant, monkeypatch):
    seen = []
    monkeypatch.setattr(rep_noise, "mmd", lambda x, y: seen.append((x, y)) or mmd(x, y))
    lm = HookedLM(tiny.llama())
    terms(RepNoise(variant=variant), lm)
    width = max(HARMFUL.input_ids.shape[1], REFUSAL.input_ids.shape[1])
    mask = HARMFUL.response_mask
    if variant == "released":
        a, b = (torch.nn.functional.pad(x.input_ids, (0, width - x.input_ids.shape[1]))
                for x in (HARMFUL, REFUSAL))  # fmt: skip
        mask = a != b
    assert len(seen) == lm.n_layers
    for x, y in seen:
        for rows in (x, y):
            shaped = rows.view(*mask.shape, -1)
            assert not shaped[~mask].any()
            assert shaped[mask].abs().sum(-1).all()
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_activations_in_half_precision_are_compared_in_full(kind):
    g = torch.Generator().manual_seed(0)
    hidden = (300 * torch.randn(3, 5, 64, generator=g)).to(kind)  # squares overflow fp16
    mask = torch.ones(3, 5, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        far = distance_from_noise(hidden, mask, torch.Generator().manual_seed(1))
    expected = distance_from_noise(hidden.float(), mask, torch.Generator().manual_seed(1))
    assert far.dtype == torch.float32
    assert far.item() == pytest.approx(expected.item(), rel=1e-5)


# --- the matched control


def test_the_control_is_fine_tuning_on_refusals_to_the_bit():
    control = RepNoise(fit=FIT).matched_control()
    assert control == RepNoise(fit=FIT, alpha=0.0, beta=0.0)
    ours = control.immunise(tiny.llama(), streams())
    plain, usual = tiny.llama(), tiny.llama()
    refusals, scores = {"refusal": streams()["refusal"]}, {"stability": Mean("refusal")}
    for model, loss in ((plain, read_loss), (usual, logits_loss)):
        part_loss = loss(HookedLM(model))
        train(model, refusals, lambda b, c, f=part_loss: c.minimise(f, b, scores), FIT)
    for a, b, c in zip(ours.parameters(), plain.parameters(), usual.parameters(), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-2, atol=1e-3)


def read_loss(lm):
    """The refusals' loss, read at response tokens."""

    def loss(part):
        batch = part["refusal"]
        states = lm.stream(batch)[:, :-1][batch.scored]
        nll = read_out(lm).nll(states, batch.input_ids[:, 1:][batch.scored], normed=True)
        return {"stability": nll.sum() / len(nll)}

    return loss


def logits_loss(lm):
    """The same from all logits, as everyone does it."""
    return lambda part: {"stability": cross_entropy(lm(part["refusal"]).logits, part["refusal"])}


def test_only_what_stands_alone_may_be_split_at_will():
    assert RepNoise().coupled
    assert RepNoise(alpha=0.0).coupled
    assert RepNoise(beta=0.0).coupled
    assert not RepNoise().matched_control().coupled
    assert RepNoise(variant="released").matched_control().coupled  # its own mean over tokens


# --- the two variants


def test_released_scores_where_answers_differ_and_the_first_of_them_blindly():
    ids = torch.tensor([[1, 5, 6, 7, 8, 0, 0], [1, 5, 6, 7, 8, 9, 2]])
    differ = torch.tensor([[0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 1, 1]]).bool()
    real = torch.ones_like(differ)
    answers = by_difference(Batch(ids, real, real, ("a", "b")), differ)
    # Column t scores token t + 1. Of tokens 2, 3, 5, 6: token 2 and 5 follow one that agrees, and
    # are blind; row 0's 5 and 6 have id 0 and count for nothing.
    expected = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 1]]).bool()
    assert torch.equal(answers.scored, expected)
    assert answers.blind == 3


def test_a_blind_token_costs_log_vocabulary_whatever_the_model():
    lm = HookedLM(tiny.llama())
    read, state = read_out(lm), (lm.stream(HARMFUL), True)
    none = torch.zeros_like(HARMFUL.scored)
    blind = Answers(HARMFUL, none, blind=2)
    assert blind.loss(read, state).item() == pytest.approx(math.log(tiny.VOCABULARY), rel=1e-6)
    seen = Answers(HARMFUL, HARMFUL.scored)
    n, both = int(HARMFUL.scored.sum()), Answers(HARMFUL, HARMFUL.scored, blind=3)
    mixed = (n * seen.loss(read, state) + 3 * math.log(tiny.VOCABULARY)) / (n + 3)
    torch.testing.assert_close(both.loss(read, state), mixed)


def test_the_variants_read_out_what_they_should(monkeypatch):
    calls, nll = {}, ReadOut.nll

    def counted(self, hidden, targets, *, normed=False):
        kinds.append(normed)
        return nll(self, hidden, targets, normed=normed)

    monkeypatch.setattr(ReadOut, "nll", counted)
    for variant in VARIANTS:
        kinds = calls[variant] = []
        terms(RepNoise(variant=variant), HookedLM(tiny.llama()))
    # Refusals first; then embedding and all blocks but the last, then the final state.
    assert calls["corrected"] == [True, False, False, True]
    assert calls["released"] == [True, False, False, True, False]  # normed twice, once more


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_released_variant_cares_what_rows_are_padded_with(variant):
    lm, method = HookedLM(tiny.llama()), RepNoise(beta=1.0, variant=variant)
    other = {
        n: replace(b, input_ids=b.input_ids.where(b.attention_mask, 5)) for n, b in drawn().items()
    }
    usual, found = terms(method, lm, drawn()), terms(method, lm, other)
    same = [torch.isclose(value, found[name], rtol=1e-5) for name, value in usual.items()]
    assert all(same) == (variant == "corrected")


# --- what it composes with


WAYS = [
    {"lora_rank": 2},
    {"fit": replace(FIT, micro_batch=2)},
    {"fit": replace(FIT, precision="bf16")},
    {"fit": replace(FIT, gradient_checkpointing=True)},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("changes", WAYS)
def test_trains_in_every_way_of_the_loop_and_leaves_no_hooks(lm, variant, changes):
    before = [p.clone() for p in lm.model.parameters()]
    method = RepNoise(**{"fit": FIT, "variant": variant} | changes)
    out = method.immunise(lm.model, streams())
    assert hooks(out) == hooks(lm.model) == 0
    assert all(torch.isfinite(p).all() for p in out.parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(lm.model.parameters(), out.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), before, strict=True))


def test_recomputing_blocks_changes_no_gradient():
    results = []
    for recompute in (False, True):
        lm = HookedLM(tiny.llama())
        lm.gradient_checkpointing(recompute)
        lm.model.train()
        sum(terms(RepNoise(beta=1.0), lm).values()).backward()
        results.append([p.grad for p in lm.model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_adapters_get_gradients_from_every_term():
    lm = HookedLM(with_lora(tiny.llama(), rank=2))
    for name, value in terms(RepNoise(beta=1.0), lm).items():
        lm.model.zero_grad()
        value.backward(retain_graph=True)
        grads = [p.grad for p in lm.model.parameters() if p.requires_grad]
        assert any(g is not None and g.abs().sum() > 0 for g in grads), name


def test_micro_batches_of_two_are_means_over_their_rows():
    lm, method = HookedLM(tiny.llama()), RepNoise(beta=1.0)
    step = replace(context(), micro_batch=2)
    found = step.minimise(lambda part: method.loss(lm, part, step), drawn(), method.scores)
    generator = context()
    parts = [
        method.loss(lm, {n: b.rows([i, i + 1]) for n, b in drawn().items()}, generator)
        for i in (0, 2)
    ]
    for name in ("noise", "ascent"):
        torch.testing.assert_close(found[name], (parts[0][name] + parts[1][name]) / 2)
    torch.testing.assert_close(found["stability"], terms(method, lm)["stability"])


def drawn():
    return {name: BATCHES[name] for name in RepNoise().draws}


def test_nothing_as_wide_as_the_vocabulary_is_kept_for_backward():
    lm, shapes = HookedLM(tiny.llama()), []
    read_out(lm)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: shapes.append(tuple(x.shape)) or x, lambda x: x
    ):
        terms(RepNoise(retain_weight=1.0), lm)
    wide = [s for s in shapes if tiny.VOCABULARY in s]
    assert not [s for s in wide if sorted(s) != [32, tiny.VOCABULARY]], wide  # the weights
    assert shapes


def test_harmful_answers_become_unlikely_and_refusals_likely():
    method = RepNoise(fit=Fit(steps=25, lr=3e-3, batch_size=4, warmup=0))
    before = HookedLM(tiny.llama())
    after = HookedLM(method.immunise(tiny.llama(), streams()))
    with torch.no_grad():
        for batch, sign in ((HARMFUL, 1), (REFUSAL, -1)):
            change = cross_entropy(after(batch).logits, batch) - cross_entropy(
                before(batch).logits, batch
            )
            assert sign * change > 0.5


def test_activations_come_nearer_to_noise():
    method = RepNoise(alpha=0.0, beta=5.0, fit=Fit(steps=25, lr=3e-3, batch_size=4, warmup=0))
    alone = RepNoise(alpha=0.0, beta=1.0)
    before = terms(alone, HookedLM(tiny.llama()))["noise"]
    after = terms(alone, HookedLM(method.immunise(tiny.llama(), streams())))["noise"]
    assert after < 0.8 * before


# --- what it refuses


def refuses(match, **batches):
    with pytest.raises(InvalidValueError, match=match):
        terms(RepNoise(), HookedLM(tiny.llama()), BATCHES | batches)


def test_the_same_answer_twice_is_refused_with_its_name():
    texts = [*TEXTS["refusal"][:2], TEXTS["harmful"][2], TEXTS["refusal"][3]]
    refuses("of example '2' are the same", refusal=encode(tiny.tokenizer(), texts))


def test_rows_that_are_not_pairs_are_refused():
    refuses(
        r"harmful example '0' and refusal '1'.*like='harmful'", refusal=REFUSAL.rows([1, 0, 2, 3])
    )
    refuses("4 harmful rows and 3 refusals", refusal=REFUSAL.rows([0, 1, 2]))
    texts = [replace(TEXTS["refusal"][0], prompt="other"), *TEXTS["refusal"][1:4]]
    refuses("same id but other prompts", refusal=encode(tiny.tokenizer(), texts))
    longer = [replace(TEXTS["refusal"][0], prompt="say 0 "), *TEXTS["refusal"][1:4]]
    refuses("same id but other prompts", refusal=encode(tiny.tokenizer(), longer))


def test_unpaired_streams_are_refused_at_the_first_step():
    apart = streams() | {"refusal": replace(streams()["refusal"], like="")}
    with pytest.raises(InvalidValueError, match="are not a pair"):
        RepNoise(fit=FIT).immunise(tiny.llama(), apart)


def test_padding_on_the_left_is_refused():
    left = encode(tiny.tokenizer(), TEXTS["harmful"][:4], side="left")
    refuses("Pad on the right", harmful=left)


def test_one_row_at_a_time_is_refused_unless_no_noise_is_asked_for():
    one = {name: batch.rows([0]) for name, batch in BATCHES.items()}
    refuses("at least 2 examples", **one)
    assert terms(RepNoise(beta=0.0), HookedLM(tiny.llama()), one)
    with pytest.raises(InvalidValueError, match="micro_batch"):
        RepNoise(fit=replace(FIT, micro_batch=1)).immunise(tiny.llama(), streams())
    with pytest.raises(InvalidValueError, match="micro_batch"):
        RepNoise(fit=replace(FIT, batch_size=1)).immunise(tiny.llama(), streams(1))
    replace(RepNoise(fit=FIT).matched_control(), fit=replace(FIT, micro_batch=1)).immunise(
        tiny.llama(), streams()
    )


def test_answers_without_tokens_are_refused():
    none = replace(HARMFUL, response_mask=torch.zeros_like(HARMFUL.response_mask),
                   attention_mask=HARMFUL.attention_mask & ~HARMFUL.response_mask)  # fmt: skip
    refuses("no token of examples 0, 1, 2, 3 is scored", harmful=none)


@pytest.mark.parametrize("bad", [{"alpha": -1.0}, {"beta": float("nan")}, {"retain_weight": -0.5}])
def test_a_weight_below_zero_is_refused(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        RepNoise(**bad)


def test_numbers_that_are_not_finite_stop_training_and_leave_no_hooks():
    model, wild = tiny.llama(), Fit(steps=5, lr=1e30, batch_size=4, warmup=0, clip=None)
    with pytest.raises(TrainingError, match="stopped before optimiser step 2"):
        RepNoise(fit=wild).immunise(model, streams(), in_place=True)
    assert hooks(model) == 0


def test_a_model_whose_mlp_is_no_module_names_the_sites_it_has():
    with pytest.raises(SiteError, match=r"mlp_module_out.*no module known.*attn_module_out"):
        terms(RepNoise(beta=1e-3), HookedLM(make("opt")))
    assert terms(RepNoise(beta=0.0), HookedLM(make("opt")))  # the lens needs no such site
