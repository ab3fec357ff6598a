"""Cosine layer × token: closed forms, invariants, and a break that is only there if planted."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats
from torch.nn import functional as F

from tests import tiny
from tests.probes.texts import AT, TinyDomain, panel, rows_of
from workbench.activations import HookedLM
from workbench.errors import InvalidValueError, WorkbenchWarning
from workbench.panel import Panel
from workbench.probes import PROBES, Cosine
from workbench.probes._cosine import compared
from workbench.probes._permutation import falls_below
from workbench.rows import BreakPoint, CosineProfile, LayerCosine, TokenCosine
from workbench.states import States, read_states

FEW = {"permutations": 99}


@pytest.fixture(scope="module", params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


def of(rows, kind, **told):
    return [r for r in rows if type(r) is kind and all(getattr(r, k) == v for k, v in told.items())]


def numbers(rows, group="hazard"):
    return {r.measure: r.value for r in of(rows, BreakPoint, group=group)}


def test_every_token_equals_the_obvious_computation(pair):
    rows = rows_of(Cosine(**FEW), *pair)
    batch = panel().batch("hazard")
    one = batch.rows([2])
    now, then = (HookedLM(m) for m in pair)
    with now.record("resid_post") as a:
        now(one)
    with then.record("resid_post") as b:
        then(one)
    prompt = int((one.attention_mask & ~one.response_mask).sum())
    for layer, name in enumerate(now.resolve("resid_post")):
        x, y = a[name][0].double(), b[name][0].double()
        expected = {"cosine": F.cosine_similarity(x, y, dim=-1), "norm": x.norm(dim=-1),
                    "norm_reference": y.norm(dim=-1)}  # fmt: skip
        for measure, values in expected.items():
            told = {"example": one.examples[0], "measure": measure}
            (row,) = of(rows, TokenCosine, layer=layer, **told)
            assert row.values == pytest.approx(values.tolist(), rel=2e-3, abs=1e-4)
            assert row.prompt_tokens == prompt
            (mean,) = of(rows, LayerCosine, **told)
            response = values[prompt:].mean().item()
            assert mean.values[layer] == pytest.approx(response, rel=1e-3, abs=1e-5)


def test_statistics_over_prompts_equal_numpy(pair):
    rows = rows_of(Cosine(prompts_kept=99, **FEW), *pair)
    maps = of(rows, TokenCosine, layer=1, measure="cosine")
    responses = [r.values[r.prompt_tokens :] for r in maps]
    (mean,) = of(rows, CosineProfile, group="hazard", layer=1, measure="cosine", statistic="mean")
    (low,) = of(rows, CosineProfile, group="hazard", layer=1, measure="cosine", statistic="q25")
    for t, n in enumerate(mean.prompts):
        there = [r[t] for r in responses if len(r) > t]
        assert n == len(there) and n >= len(responses) / 2
        assert mean.values[t] == pytest.approx(np.mean(there), abs=2e-4)
        assert low.values[t] == pytest.approx(np.quantile(there, 0.25), abs=2e-4)
    reached = sum(sum(len(r) > t for r in responses) >= len(responses) / 2 for t in range(99))
    assert len(mean.values) == reached


def test_cosines_are_cosines_and_a_model_is_itself(pair):
    rows = rows_of(Cosine(**FEW), *pair)
    for row in [*of(rows, TokenCosine, measure="cosine"), *of(rows, LayerCosine, measure="cosine")]:
        assert all(-1 <= x <= 1 for x in row.values)
    same = rows_of(Cosine(**FEW), pair[0], pair[0])
    for row in of(same, TokenCosine, measure="cosine"):
        assert row.values == [1.0] * len(row.values)
    told = numbers(same)
    assert told["p"] == 1.0 and "layer" not in told and told["statistic"] == 0


def states(values, lengths):
    names = tuple(f"e{i}" for i in range(len(lengths)))
    layers = tuple(f"blocks.{i}.hook_resid_post" for i in range(len(values)))
    return States("resid_post", "all", names, lengths, layers, values)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), which=st.booleans())
def test_scale_changes_norms_and_no_cosine(seed, scale, which):
    x, y = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(seed))
    plain = compared(states(x, (2, 3)), states(y, (2, 3)), (1, 1))
    x, y = (x * scale, y) if which else (x, y * scale)
    scaled = compared(states(x, (2, 3)), states(y, (2, 3)), (1, 1))
    for a, b in zip(plain["cosine"].values, scaled["cosine"].values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    grown = "norm" if which else "norm_reference"
    np.testing.assert_allclose(scaled[grown].values[1], scale * plain[grown].values[1], rtol=1e-5)


def test_zero_states_give_no_nan():
    x = torch.zeros(1, 2, 4)
    y = torch.ones(1, 2, 4)
    assert compared(states(x, (2,)), states(y, (2,)), (0,))["cosine"].values[0].tolist() == [[0, 0]]
    assert compared(states(x, (2,)), states(x, (2,)), (0,))["cosine"].values[0].tolist() == [[1, 1]]


def test_other_members_of_a_batch_change_nothing(pair):
    whole = panel().batch("hazard")
    alone = read_states(pair[0], whole.rows([1]), "resid_post", "all")
    beside = read_states(pair[0], whole, "resid_post", "all").by_example()[1]
    torch.testing.assert_close(alone.values, beside, rtol=1e-3, atol=1e-3)


def test_response_positions_are_the_tail_of_all_positions(pair):
    whole, tail = (rows_of(Cosine(positions=p, **FEW), *pair) for p in ("all", "response"))
    assert of(whole, CosineProfile) == of(tail, CosineProfile)
    assert of(whole, BreakPoint) == of(tail, BreakPoint)
    for a, b in zip(of(whole, TokenCosine), of(tail, TokenCosine), strict=True):
        assert b.prompt_tokens == 0 and a.values[a.prompt_tokens :] == b.values


# The test of the largest difference


def curves(seed, n=16, m=16, cells=(4, 10), spread=1.0):
    """Prompts whose cells hang together: a level of their own, and a walk over the tokens."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(n + m, *cells)).cumsum(-1) / 3 + random.normal(size=(n + m, 1, 1))
    noise[:n] *= spread
    return noise[:n].reshape(n, -1), noise[n:].reshape(m, -1)


def test_statistic_equals_welch():
    a, b = curves(0, n=9, m=13)
    found = falls_below(a, b, permutations=19)
    expected = stats.ttest_ind(b, a, equal_var=False).statistic
    np.testing.assert_allclose(found.differences, expected, rtol=1e-8)
    assert found.peak == expected.argmax()


def test_p_equals_the_loop_over_all_permutations():
    """With 3 + 3 prompts there are 20 labellings: the loop visits each, ours draws many."""
    from itertools import combinations

    a, b = curves(5, n=3, m=3)
    values = np.concatenate([a, b])
    ways = [list(c) for c in combinations(range(6), 3)]
    tests = [stats.ttest_ind(np.delete(values, c, 0), values[c], equal_var=False) for c in ways]
    largest = [t.statistic.max() for t in tests]
    exact = np.mean(np.array(largest) >= largest[0] - 1e-9)
    assert falls_below(a, b, permutations=4000).p == pytest.approx(exact, abs=0.025)


@pytest.mark.parametrize("spread", [1.0, 3.0], ids=["exchangeable", "unequal variance"])
def test_chance_is_called_a_break_as_often_as_alpha_says(spread):
    trials, alpha = 300, 0.05
    found = [
        falls_below(*curves(seed, spread=spread), alpha=alpha, permutations=99, seed=seed)
        for seed in range(trials)
    ]
    p = np.array([f.p for f in found])
    assert all((f.p <= alpha) == f.significant.any() for f in found)
    allowed = stats.binom.ppf(0.999, trials, alpha)
    assert (p <= alpha).sum() <= allowed
    if spread == 1.0:
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_a_constant_cell_and_rounding_are_no_break():
    a, b = np.ones((8, 5)), np.ones((8, 5))
    assert falls_below(a, b, permutations=99).p == 1.0
    a = a - 1e-9
    assert not falls_below(a, b, permutations=99).significant.any()


def test_cells_that_few_reach_are_not_tested():
    a, b = curves(1)
    a[3:, 7] = np.nan
    a[:, 7] -= 100
    found = falls_below(a, b, permutations=99)
    assert found.differences[7] == -np.inf and not found.significant[7]
    assert falls_below(a[:1], b, permutations=99) is None
    a, b = curves(1)
    a[0, 3] = np.nan  # one prompt fewer
    expected = stats.ttest_ind(b[:, 3], a[1:, 3], equal_var=False).statistic
    assert falls_below(a, b, permutations=9).differences[3] == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(layer=st.integers(0, 4), token=st.integers(0, 6), seed=st.integers(0, 99))
def test_a_planted_break_is_found_where_it_was_planted(layer, token, seed):
    """From (layer, token) on and up, hazards lose a good part of the cosine; below, nothing."""
    random = np.random.default_rng(seed)
    then = torch.from_numpy(random.normal(size=(5, 20 * 7, 64)))
    now = then + 0.1 * torch.from_numpy(random.normal(size=then.shape))
    fallen = now.reshape(5, 20, 7, 64).clone()
    fallen[layer:, :, token:] += torch.from_numpy(random.normal(size=fallen.shape))[
        layer:, :, token:
    ]
    lengths = (7,) * 20
    before, after, benign = (
        replace(states(x.reshape(then.shape).float(), lengths), positions="response")
        for x in (then, fallen, now)
    )
    of_then = {("hazard", "resid_post"): before, ("benign", "resid_post"): before}
    compare = Cosine(positions="response", permutations=199, alpha=0.01).fit(of_then)
    rows = compare({("hazard", "resid_post"): after, ("benign", "resid_post"): benign}, AT)
    told = numbers(rows)
    assert (told["layer"], told["token"], told["onset"]) == (layer, token, token)
    assert told["p"] == pytest.approx(1 / 200)
    assert told["cosine"] < told["threshold"] < told["benign"]


def test_token_onset_is_the_first_in_any_layer():
    """A break that begins later in the lower layer."""
    random = np.random.default_rng(0)
    a, b = (1 + 0.01 * random.normal(size=(12, 3, 6)) for _ in range(2))
    a[:, 1, 4:] -= 1
    a[:, 2, 2:] -= 1
    told = {}
    from workbench.probes._cosine import Field

    fields = [Field(("e",) * 12, (0,) * 12, tuple(x)) for x in (a, b)]
    place = {"stage": "attack", "step": 1, "reference": "r", "group": "hazard", "site": "s"}
    for row in Cosine(permutations=199)._break(*fields, place):
        told[row.measure] = row.value
    assert (told["layer"], told["token"], told["onset"]) == (1, 4, 2)


def test_framed_hazards_are_held_against_benign_text_too(pair):
    rows = rows_of(Cosine(**FEW), *pair)
    assert {r.group for r in of(rows, BreakPoint)} == {"hazard", "framed"}
    assert {r.group for r in of(rows, CosineProfile)} == {"hazard", "benign", "framed"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"positions": "last_prompt"}, "positions"),
        ({"alpha": 0.0}, "alpha is an error rate between 0 and 1"),
        ({"permutations": 10}, "10 permutations cannot give p ≤ 0.05"),
        ({"prompts_kept": -1}, "prompts_kept must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(told, message):
    with pytest.raises((InvalidValueError, TypeCheckError), match=message):
        Cosine(**told)


def test_a_recording_needs_response_positions(pair):
    with pytest.raises(InvalidValueError, match="--positions response"):
        Cosine().fit({})


def test_one_prompt_has_no_break_point_and_no_nan():
    one = Panel(TinyDomain(), tiny.tokenizer(), "test", 1)
    rows = rows_of(Cosine(**FEW), tiny.llama(0), tiny.llama(1), one)
    assert not of(rows, BreakPoint) and of(rows, TokenCosine)
    assert all(math.isfinite(x) for r in rows for x in r.values)


@dataclass(frozen=True)
class HazardsAlone(TinyDomain):
    def questions(self, split, kind):
        return super().questions(split, kind) if kind == "hazard" else []


def test_without_benign_prompts_it_says_that_there_is_no_break_point():
    alone = Panel(HazardsAlone(), tiny.tokenizer(), "test", 32)
    with pytest.warns(WorkbenchWarning, match="no break point: there are no benign prompts"):
        rows = rows_of(Cosine(**FEW), tiny.llama(0), tiny.llama(1), alone)
    assert not of(rows, BreakPoint) and of(rows, LayerCosine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WorkbenchWarning)
        rows_of(Cosine(**FEW), tiny.llama(0), tiny.llama(1))


@pytest.mark.parametrize("name", ["cosine", "drift", "vocabulary"])
def test_a_probe_that_compares_is_given_a_reference(name):
    with pytest.raises(InvalidValueError, match="reference"):
        PROBES[name]().against(None, panel())
