"""Depth of the KL budget: closed forms, an obvious oracle, and intervals that cover."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.shallowness import budget_share, depth, differences, intervals, padded, weights

LINES = st.lists(
    st.lists(st.integers(0, 9).map(float), min_size=1, max_size=9), min_size=1, max_size=6
)  # whole numbers, so that no sum is rounded


def named(lines):
    return {f"e{i}": line for i, line in enumerate(lines)}


@given(LINES, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
@settings(max_examples=60, deadline=None)
def test_depth_is_the_first_position_at_which_enough_is_spent(lines, q):
    budget = []
    for k in range(max(map(len, lines))):
        there = [Fraction(x[k]) for x in lines if k < len(x)]
        if 2 * len(there) >= len(lines):
            budget.append(sum(there) / len(there))
    total = sum(budget)
    if total == 0:
        assert math.isnan(depth(lines, q))
        return
    k = 1
    while sum(budget[:k]) < Fraction(q) * total:
        k += 1
    assert depth(lines, q) == k


def test_closed_forms():
    lines = [[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert (depth(lines, 0.5), depth(lines, 0.9), depth(lines, 0.8)) == (1, 2, 1)
    assert depth([[1.0] * 10], 0.5) == 5 and depth([[1.0] * 10], 0.9) == 9
    assert budget_share(lines, 1) == pytest.approx(0.8)
    assert padded([[1.0], [2.0, 3.0]]).tolist() == [[1, 0], [2, 3]]
    found = intervals(named(lines))
    assert found["share_5"].value == 1 and found["depth_90"].value == 2


def test_short_answers_do_not_make_a_difference_shallow():
    """The same KL at every token: half of the answers end early, and the depth stays."""
    even = [[1.0] * 20] * 4
    assert depth(even + [[1.0] * 3] * 4, 0.5) == depth(even, 0.5) == 10
    assert budget_share(even + [[1.0] * 3] * 4, 5) == pytest.approx(0.25)
    # what fewer than half of the prompts reach says little of them, and is left out
    assert depth([*even[:1], *[[1.0] * 3] * 4], 1.0) == 3


def test_no_kl_has_no_depth():
    assert math.isnan(depth([[0.0, 0.0]], 0.5)) and math.isnan(depth([], 0.5))
    found = intervals(named([[0.0], [0.0]]))
    assert all(math.isnan(x.value) and x.low is None for x in found.values())
    assert intervals({})["share_5"].low is None


def test_one_prompt_has_no_interval():
    assert intervals(named([[1.0, 2.0]]))["depth_50"].low is None


def test_intervals_are_those_of_a_loop_over_resamples():
    lines = [[4.0] + [1.0] * 6, [1.0, 3.0, 2.0], [0.5] * 9, [2.0, 2.0, 0.0, 0.0, 0.0, 9.0]]
    shares = []
    for drawn in weights(len(lines)):
        resample = [line for line, n in zip(lines, drawn, strict=True) for _ in range(int(n))]
        there = [[x[k] for x in resample if k < len(x)] for k in range(7)]  # two of four have 7
        budget = [np.mean(x) if x else 0.0 for x in there]
        shares.append(sum(budget[:5]) / sum(budget))
    found = intervals(named(lines))["share_5"]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))
    assert found.value == pytest.approx(budget_share(lines, 5))
    assert found.low < found.value < found.high


def test_intervals_cover_as_often_as_they_say():
    random = np.random.default_rng(0)
    shape = np.exp(-np.arange(12) / 3)
    truth = shape[:5].sum() / shape.sum()  # sizes and shapes are independent
    hits = 0
    for trial in range(120):
        lines = random.lognormal(size=(40, 1)) * shape * random.gamma(4, 0.25, size=(40, 12))
        found = intervals(named(lines.tolist()), seed=trial)["share_5"]
        hits += found.low <= truth <= found.high
    assert 0.87 <= hits / 120 <= 0.995


def test_differences_are_paired():
    lines = np.random.default_rng(1).random((12, 8)).tolist()
    same = differences(named(lines), named(lines))
    assert all((x.value, x.low, x.high) == (0, 0, 0) for x in same.values())
    doubled = differences(named([[2 * v for v in x] for x in lines]), named(lines))
    assert doubled["share_5"].value == pytest.approx(0)
    early = [[10 * x[0], *x[1:]] for x in lines]
    gap = differences(named(early), named(lines))["share_5"]
    alone = intervals(named(early))["share_5"]
    assert 0 < gap.low < gap.value < gap.high
    assert gap.high - gap.low < 2 * (alone.high - alone.low)
    assert differences({"a": [1.0]}, {"b": [1.0]}) == {}


def test_only_shared_prompts_are_paired():
    one, two = {"a": [1.0, 0.0], "b": [9.0, 9.0]}, {"a": [1.0, 0.0], "c": [0.0, 5.0]}
    assert differences(one, two)["depth_50"].value == 0


def test_it_never_loads_torch():
    code = "import sys, workbench.shallowness; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
