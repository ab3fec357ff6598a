"""The kernel discrepancy: its theorems, and an obvious loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.discrepancy import WIDTHS, full_precision, mmd, squared_distances
from workbench.errors import InvalidValueError

seeds = st.integers(0, 2**31)


def samples(seed, n=4, m=4, d=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype), 1 + torch.randn(
        m, d, generator=g, dtype=dtype
    )


def naive(x, y):
    """The definition, pair by pair, in Python's floats."""
    rows = [r.tolist() for r in (*x, *y)]
    d = [[sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) for b in rows] for a in rows]
    count = len(rows)
    bandwidth = sum(map(sum, d)) / (count**2 - count)

    def k(a, b):
        return sum(math.exp(-d[a][b] / (bandwidth * 2**i)) for i in range(-2, 3))

    def mean(left, right):
        return sum(k(a, b) for a in left for b in right) / (len(left) * len(right))

    first, second = range(len(x)), range(len(x), count)
    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


@settings(deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_equals_the_definition(seed, n, m):
    x, y = samples(seed, n, m)
    assert mmd(x, y).item() == pytest.approx(naive(x, y), abs=1e-10)


@settings(deadline=None)
@given(seeds)
def test_distances_equal_the_definition_and_are_never_negative(seed):
    x, _ = samples(seed, dtype=torch.float32)
    z = torch.cat([x, x + 1e-4, x]) + 1000.0  # near, equal, and far from the origin
    d = squared_distances(z)
    exact = (z[:, None].double() - z[None].double()).pow(2).sum(-1)
    assert (d >= 0).all()
    assert not d.diagonal().any()
    torch.testing.assert_close(d.double(), exact, rtol=1e-4, atol=1e-4)


def test_distances_have_the_obvious_gradient():
    x, _ = samples(0)
    weights = torch.randn(4, 4, dtype=torch.float64)
    found, expected = (x.clone().requires_grad_() for _ in range(2))
    (weights * squared_distances(found)).sum().backward()
    (weights * (expected[:, None] - expected[None]).pow(2).sum(-1)).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@settings(deadline=None)
@given(seeds)
def test_a_sample_is_at_no_distance_from_itself(seed):
    x, _ = samples(seed)
    assert mmd(x, x).item() == pytest.approx(0, abs=1e-12)
    assert mmd(x.float(), x.float()).item() == pytest.approx(0, abs=1e-5)


@settings(deadline=None)
@given(seeds)
def test_is_symmetric(seed):
    x, y = samples(seed, n=3, m=5)
    assert mmd(x, y).item() == pytest.approx(mmd(y, x).item(), abs=1e-12)


@settings(deadline=None)
@given(seeds, st.floats(1e-3, 1e3))
def test_does_not_change_when_both_are_rescaled(seed, scale):
    x, y = samples(seed)
    assert mmd(scale * x, scale * y).item() == pytest.approx(mmd(x, y).item(), rel=1e-9)


@settings(deadline=None)
@given(seeds, st.floats(0, 1e6))
def test_lies_between_zero_and_twice_the_kernels(seed, shift):
    x, y = samples(seed)
    assert -1e-9 <= mmd(x, y + shift).item() < 2 * len(WIDTHS)


@settings(deadline=None)
@given(seeds)
def test_of_single_rows_is_a_constant(seed):
    x, y = (s.requires_grad_() for s in samples(seed, n=1, m=1))
    value = mmd(x, y)
    expected = 2 * (5 - sum(math.exp(-4 / 2**k) for k in range(5)))
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert value.item() == pytest.approx(6.18628, abs=1e-5)


def test_no_gradient_flows_through_the_bandwidth():
    """The derivative along a common rescaling: zero if the bandwidth followed, and it does not."""
    x, y = samples(0)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mmd(scale * x, scale * y), scale)
    step = 1e-6
    z = torch.cat([x, y])
    d = (z[:, None] - z[None]).pow(2).sum(-1)
    bandwidth = d.sum() / (len(z) * (len(z) - 1))

    def fixed(s):
        k = sum(torch.exp(-(s**2) * d / (w * bandwidth)) for w in WIDTHS)
        return k[:4, :4].mean() + k[4:, 4:].mean() - 2 * k[:4, 4:].mean()

    assert slope.item() == pytest.approx(
        ((fixed(1 + step) - fixed(1 - step)) / (2 * step)).item(), rel=1e-6
    )
    assert abs(slope.item()) > 0.1


def test_rows_all_alike_are_at_no_distance_and_have_a_gradient_of_zero():
    x = torch.ones(3, 4, requires_grad=True)
    value = mmd(x, torch.ones(3, 4))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()


def test_half_precision_is_left_behind_even_under_autocast():
    x, y = samples(0, d=4096, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mmd(x.bfloat16(), y.bfloat16())
    assert found.dtype == torch.float32
    exact = mmd(x.bfloat16().double(), y.bfloat16().double())
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)
    assert full_precision(x.double()).dtype == torch.float64


def test_large_activations_do_not_overflow():
    x, y = samples(0)
    assert torch.isfinite(mmd(1e4 * x.half(), y.half()))


def test_an_empty_sample_is_refused():
    with pytest.raises(InvalidValueError, match="0 and 3 rows"):
        mmd(torch.zeros(0, 2), torch.zeros(3, 2))
