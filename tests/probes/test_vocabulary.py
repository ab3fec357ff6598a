"""KL and its companions by response position: closed forms, invariants, what is met at the door."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import InvalidValueError, WorkbenchError
from workbench.probes import VocabularyPass
from workbench.probes._refusals import refusal_starts
from workbench.probes.vocabulary import budget_share
from workbench.rows import TokenKL, TokenMover, TokenStatistics


@pytest.fixture(params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


def forward_kl(model, reference):
    return [r for r in rows_of(VocabularyPass(), model, reference)
            if getattr(r, "measure", "") == "forward_kl"]  # fmt: skip


def test_a_model_against_itself_does_not_diverge(pair):
    for row in forward_kl(pair[0], pair[0]):
        assert row.values == [0.0] * len(row.values)


def test_kl_equals_torch_kl_div_token_by_token(pair):
    for row in forward_kl(*pair):
        batch = panel().batch(row.group)
        one = batch.rows([batch.examples.index(row.example)])
        p, q = (HookedLM(m)(one).logits[0, :-1].double().log_softmax(-1) for m in pair)
        expected = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)[one.scored[0]]
        assert row.values == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)


def test_kl_is_never_negative_and_obeys_pinsker(pair):
    rows = [r for r in forward_kl(*pair) if r.group == "hazard"]
    values = [v for r in rows for v in r.values]
    one = panel().batch("hazard")
    p, q = (HookedLM(m)(one).logits[:, :-1][one.scored].softmax(-1) for m in pair)
    distance = 0.5 * (p - q).abs().sum(-1)
    for kl, tv in zip(values, distance.tolist(), strict=True):
        assert kl >= -1e-6 and tv <= math.sqrt(max(kl, 0) / 2) + 1e-5


def test_a_constant_added_to_the_logits_changes_nothing():
    model, shifted = tiny.gpt2().eval(), tiny.gpt2().eval()
    shifted.lm_head = torch.nn.Linear(32, tiny.VOCABULARY)
    with torch.no_grad():
        shifted.lm_head.weight.copy_(model.lm_head.weight)
        shifted.lm_head.bias.fill_(3.0)
    values = [v for r in forward_kl(model, shifted) for v in r.values]
    assert max(map(abs, values)) < 1e-4


def test_budget_share():
    assert budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 1) == pytest.approx(0.8)
    assert budget_share([[1.0, 1.0]], 2) == 1.0
    assert math.isnan(budget_share([[0.0]], 1))


def of(kind, rows, **columns):
    return [r for r in rows if isinstance(r, kind)
            and all(getattr(r, k) == v for k, v in columns.items())]  # fmt: skip


@torch.no_grad()
def by_hand(model, batch):
    """Log-probabilities at the positions that predict response tokens, an entry an example."""
    z = HookedLM(model)(batch).logits[:, :-1].double().log_softmax(-1)
    return [row[mask] for row, mask in zip(z, batch.scored, strict=True)]


def test_statistics_are_means_over_the_prompts_that_get_there(pair):
    rows = rows_of(VocabularyPass(), *pair)
    batch, chosen = panel().batch("hazard"), refusal_starts(panel())
    targets = [i[1:][m] for i, m in zip(batch.input_ids, batch.scored, strict=True)]
    for whose, model in (("checkpoint", pair[0]), ("reference", pair[1])):
        lines = by_hand(model, batch)
        obvious = {
            "entropy": [-(p.exp() * p).sum(-1) for p in lines],
            "gini": [1 - p.exp().square().sum(-1) for p in lines],
            "nll": [-p.gather(1, y[:, None])[:, 0] for p, y in zip(lines, targets, strict=True)],
            "refusal_mass": [p[:, chosen].exp().sum(-1) for p in lines],
        }
        for measure, values in obvious.items():
            (row,) = of(TokenStatistics, rows, whose=whose, group="hazard", measure=measure)
            for k, mean in enumerate(row.values):
                reached = [v[k].item() for v in values if k < len(v)]
                low, high = np.quantile(reached, [0.25, 0.75])
                assert row.prompts[k] == len(reached)
                assert (mean, row.low[k], row.high[k]) == pytest.approx(
                    (np.mean(reached), low, high), rel=1e-3, abs=1e-5
                )


def test_movers_are_the_largest_changes(pair):
    rows = of(TokenMover, rows_of(VocabularyPass(movers=1, top=3), *pair), group="benign")
    batch = panel().batch("benign")
    p, q = (by_hand(m, batch)[0].exp() for m in pair)
    assert {r.example for r in rows} == {batch.examples[0]}
    assert {r.position for r in rows} == set(range(min(8, len(p))))
    for k in {r.position for r in rows}:
        here = [r for r in rows if r.position == k]
        most = (p[k] - q[k]).abs().topk(3).indices.tolist()
        assert [r.token for r in here] == most
        for r in here:
            assert (r.p, r.q) == pytest.approx((p[k, r.token].item(), q[k, r.token].item()),
                                               rel=1e-3, abs=1e-5)  # fmt: skip
            assert r.contribution == pytest.approx(r.p * math.log(r.p / r.q), rel=1e-3, abs=1e-4)
            assert panel().tokenizer.convert_ids_to_tokens(r.token) == r.piece
    assert not of(TokenMover, rows_of(VocabularyPass(movers=0), *pair))
    assert not of(TokenMover, rows_of(VocabularyPass(), pair[0], pair[0]))


def test_divergences_of_all_kinds():
    pair = tiny.llama(), tiny.llama(seed=1)
    rows = rows_of(VocabularyPass(js=True), *pair)
    swapped = rows_of(VocabularyPass(js=True), *pair[::-1])
    for name, twin in (("forward_kl", "reverse_kl"), ("js", "js")):
        for a, b in zip(of(TokenKL, rows, measure=name), of(TokenKL, swapped, measure=twin),
                        strict=True):  # fmt: skip
            assert a.values == pytest.approx(b.values, rel=1e-4, abs=1e-5)
    assert max(v for r in of(TokenKL, rows, measure="js") for v in r.values) <= math.log(2)
    itself = rows_of(VocabularyPass(js=True), pair[0], pair[0])
    assert all(not any(r.values) for r in of(TokenKL, itself))


def test_neither_chunks_nor_the_cut_change_what_is_kept():
    pair = tiny.gpt2(), tiny.gpt2(seed=1)
    whole, small, cut = (
        of(TokenKL, rows_of(VocabularyPass(**more), *pair))
        for more in ({}, {"chunk": 37}, {"positions": 2})
    )
    assert max(len(r.values) for r in whole) > 2
    for a, b, c in zip(whole, small, cut, strict=True):
        assert a.values == pytest.approx(b.values, rel=1e-5, abs=1e-6)
        assert a.values[:2] == pytest.approx(c.values, rel=1e-4, abs=1e-5) and len(c.values) == 2


def test_without_refusals_there_is_no_refusal_mass():
    pair = tiny.llama(), tiny.llama(seed=1)
    rows = rows_of(VocabularyPass(), *pair, panel(refusals=False))
    assert {r.measure for r in of(TokenStatistics, rows)} == {"entropy", "nll", "gini"}
    assert refusal_starts(panel(refusals=False)) is None
    (start,) = panel().tokenizer.convert_ids_to_tokens(refusal_starts(panel()).tolist())
    assert start == "I"


def test_the_reference_may_be_trained_on_after_it_was_read():
    model, reference = tiny.llama(), tiny.llama(seed=1)
    measure = VocabularyPass().against(reference, panel())
    from tests.probes.texts import AT

    before = measure(model, AT)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(1.5)
    assert measure(model, AT) == before


@pytest.mark.parametrize(
    ("model", "reference", "probe", "says"),
    [
        (tiny.llama, lambda: tiny.llama(vocab_size=330), {}, "320 and 330 tokens"),
        (lambda: tiny.llama(max_position_embeddings=12), tiny.llama, {}, "context of 12"),
        (tiny.llama, tiny.llama, {"positions": 0}, "positions must be at least 1"),
        (tiny.llama, tiny.llama, {"movers": -1}, "movers must be at least 0"),
        (tiny.llama, tiny.llama, {"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_bad_input_is_met_at_the_door(model, reference, probe, says):
    with pytest.raises(InvalidValueError, match=says):
        rows_of(VocabularyPass(**probe), model(), reference())


def test_weights_that_are_not_numbers_are_refused():
    broken = tiny.llama()
    with torch.no_grad():
        broken.lm_head.weight[7, 0] = float("nan")
    with pytest.raises(WorkbenchError, match="not finite"):
        rows_of(VocabularyPass(), broken, tiny.llama())


def test_base_and_chat_model_are_read_under_one_template(tmp_path):
    """A base model is saved without a chat template: it reads the aligned model's, or one given."""
    from rich.console import Console

    from workbench.chat_templates import PLAIN
    from workbench.models import save
    from workbench.probing import probe_models
    from workbench.store import Store

    sizes = {"max_position_embeddings": 256}
    save(tiny.llama(0, **sizes), tiny.tokenizer(), tmp_path / "chat")
    save(tiny.llama(1, **sizes), tiny.tokenizer(chat_template=None), tmp_path / "base")
    found = {}
    for template in (None, "plain"):
        found[template] = probe_models(
            "vocabulary", VocabularyPass(), str(tmp_path / "chat"), str(tmp_path / "base"), "lab",
            Console(quiet=True), prompts=2, template=template, out=tmp_path / f"{template}-runs",
        )  # fmt: skip
    (own,) = Store(tmp_path / "None-runs").runs()
    (plain,) = Store(tmp_path / "plain-runs").runs()
    assert own.probe["template"] == tiny.CHAT_TEMPLATE and plain.probe["template"] == PLAIN
    one, two = (of(TokenKL, found[t], measure="forward_kl") for t in (None, "plain"))
    assert [r.example for r in one] == [r.example for r in two]
    assert [r.values for r in one] != [r.values for r in two]
