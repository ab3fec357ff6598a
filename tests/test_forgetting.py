"""Forgetting: counts, survival and overlap beside what is obvious."""

from itertools import combinations, pairwise
from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InvalidValueError
from workbench.forgetting import History, compare, overlap


def history(*rows, steps=None):
    """One row of verdicts an example: `.` safe, `x` harmful."""
    grid = np.array([[c == "x" for c in row] for row in rows]).T
    return History(steps or tuple(range(len(grid))), tuple(f"e{i}" for i in range(len(rows))), grid)


def test_each_flip_counts_once():
    told = history("..xx", ".x.x", "....", "xxxx", "x.x.")
    assert told.counts == {"e0": 1, "e1": 2, "e2": 0, "e3": 0, "e4": 1}
    assert told.at_risk == {"e0", "e1", "e2"}
    assert told.forgotten == {"e0", "e1"}
    assert told.first == {"e0": 2.0, "e1": 1.0, "e2": inf}
    assert told.survival() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert told.survival({"e2"}) == [1, 1, 1, 1]
    assert all(isnan(x) for x in told.survival({"e3"}))


@settings(max_examples=60)
@given(st.lists(st.text("x.", min_size=5, max_size=5), min_size=1, max_size=8))
def test_counts_equal_the_obvious_loop_and_survival_never_rises(rows):
    told = history(*rows)
    for i, row in enumerate(rows):
        flips = sum(a == "." and b == "x" for a, b in pairwise(row))
        assert told.counts[f"e{i}"] == flips
        monotone = "x" in row and "." not in row[row.index("x") :]
        assert not monotone or flips == int(row[0] == ".")
    left = told.survival()
    assert not told.at_risk or all(a >= b for a, b in pairwise(left))


def test_histories_end_where_a_share_is_forgotten():
    told = history("....x", "..xxx", ".xxxx", "...xx", steps=(0, 4, 8, 16, 32))
    assert told.until_forgotten(0.25).steps == (0, 4)
    assert told.until_forgotten(0.5).forgotten == {"e1", "e2"}
    assert told.until_forgotten(1.0).steps == told.steps
    assert history("...", "..x").until_forgotten(0.9).steps == (0, 1, 2)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 7), a=st.integers(0, 7), b=st.integers(0, 7))
def test_chance_is_that_of_all_sets_of_these_sizes(n, a, b):
    a, b = min(a, n), min(b, n)
    one = set(range(a))
    names = [str(i) for i in range(n)]
    others = [set(other) for other in combinations(range(n), b)]
    found = overlap([names[i] for i in one], names[:b], names)
    both = [len(one & other) for other in others]
    if a or b:
        expected = [k / len(one | other) for k, other in zip(both, others, strict=True)]
        assert found.expected_jaccard == pytest.approx(np.mean(expected))
    if a and b:
        assert found.expected_coefficient == pytest.approx(np.mean(both) / min(a, b))
        assert found.coefficient == pytest.approx(found.both / min(a, b))
    assert found.p == pytest.approx(np.mean([k >= found.both for k in both]))


def test_the_same_sets_overlap_wholly_and_large_ones_by_chance():
    names = [str(i) for i in range(20)]
    same = overlap(names[:5], names[:5], names)
    assert same.jaccard == same.coefficient == 1 and same.p < 1e-3
    assert same.expected_coefficient == pytest.approx(0.25)
    whole = overlap(names, names, names)
    assert whole.jaccard == whole.expected_jaccard == 1 and whole.p == 1
    empty = overlap([], [], names)
    assert isnan(empty.jaccard) and isnan(empty.coefficient) and empty.p == 1


def test_attacks_are_compared_among_what_was_at_risk_in_both():
    one, other = history(".x", "..", ".x", "xx"), history(".x", ".x", "xx", ".x")
    found = compare(one, other)
    assert found.among == 2 and found.sizes == (1, 2) and found.both == 1


def test_bad_input_is_refused():
    with pytest.raises(InvalidValueError, match="at risk in both"):
        compare(history("x."), history(".x"))
    with pytest.raises(InvalidValueError, match="two or more"):
        history(".", "x")
    with pytest.raises(InvalidValueError, match="rising"):
        history("..", "xx", steps=(4, 4))
    with pytest.raises(InvalidValueError, match="true or false"):
        History((0, 1), ("a",), np.zeros((2, 1)))
    with pytest.raises(InvalidValueError, match="twice"):
        History((0, 1), ("a", "a"), np.zeros((2, 2), dtype=bool))
