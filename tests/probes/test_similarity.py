"""CKA, Procrustes and directional drift: invariants, and slow loops beside the fast versions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes

from tests import tiny
from tests.probes.texts import AT, panel, rows_of
from workbench.errors import InvalidValueError
from workbench.probes import Similarity
from workbench.probes._direction import HarmDirection
from workbench.probes._similarity import (
    centred,
    feature_form,
    gram_form,
    linear_cka,
    procrustes_residual,
)
from workbench.rows import DirectionalDrift, StateSimilarity

SHAPES = [(12, 5), (5, 12), (8, 8), (40, 3), (3, 40)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(shape, seed, layers=()):
    return torch.randn(*layers, *shape, generator=torch.Generator().manual_seed(seed)).double()


def turn(d, seed):
    return torch.linalg.qr(draw((d, d), seed)).Q


def slow_cka(x, y):
    """Sums of products of covariances, entry by entry."""

    def summed(a, b):
        total = 0.0
        for i in range(a.shape[1]):
            for j in range(b.shape[1]):
                total += (
                    sum(float(p) * float(q) for p, q in zip(a[:, i], b[:, j], strict=True)) ** 2
                )
        return total

    x, y = (z.numpy() - z.numpy().mean(0) for z in (x, y))
    return summed(x, y) / math.sqrt(summed(x, x) * summed(y, y))


@shapes
def test_cka_and_procrustes_equal_the_obvious_computation(shape):
    x, y = draw(shape, 0), draw(shape, 1) + 0.5 * draw(shape, 0)
    assert linear_cka(x, y).item() == pytest.approx(slow_cka(x, y), rel=1e-10)
    disparity = procrustes(x.numpy(), y.numpy())[2]
    assert procrustes_residual(x, y).item() == pytest.approx(disparity, abs=1e-10)


@shapes
def test_both_forms_of_cka_agree(shape):
    x, y = centred(draw(shape, 0)), centred(draw(shape, 1))
    for one, other in zip(feature_form(x, y), gram_form(x, y), strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-10)


@shapes
def test_turning_shifting_and_scaling_a_set_changes_nothing(shape):
    x = draw(shape, 0)
    turned = 3.7 * x @ turn(shape[1], 2) + 5.0
    assert linear_cka(turned, x).item() == pytest.approx(1, abs=1e-12)
    assert procrustes_residual(turned, x).item() == pytest.approx(0, abs=1e-12)
    y = draw(shape, 1)
    for alike in (linear_cka, procrustes_residual):
        assert alike(turned, y).item() == pytest.approx(alike(x, y).item(), abs=1e-12)
        assert alike(x, y).item() == pytest.approx(alike(y, x).item(), abs=1e-12)


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_both_lie_between_zero_and_one_layer_by_layer(n, d, seed):
    x, y = draw((n, d), seed, (3,)), draw((n, d), seed + 100, (3,))
    for alike in (linear_cka, procrustes_residual):
        values = alike(x, y)
        assert ((values >= 0) & (values <= 1)).all()
        assert values.tolist() == pytest.approx(
            [alike(a, b).item() for a, b in zip(x, y, strict=True)]
        )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        assert alike(x[:, order], y[:, order]).tolist() == pytest.approx(values.tolist(), abs=1e-9)


def test_a_set_that_collapsed_is_alike_to_nothing():
    x = draw((6, 4), 0)
    assert linear_cka(torch.ones(6, 4), x).item() == 0
    assert procrustes_residual(torch.ones(6, 4), x).item() == 1


def test_the_shift_equals_a_loop_over_examples():
    hazard, benign, now = draw((7, 5), 0, (2,)), draw((9, 5), 1, (2,)), draw((7, 5), 2, (2,))
    found = HarmDirection.between(hazard, benign).shift(now, hazard)
    for layer in range(2):
        h, b, t = (z[layer].numpy() for z in (hazard, benign, now))
        way = np.array([h[:, k].sum() / 7 - b[:, k].sum() / 9 for k in range(5)])
        gap = math.sqrt(sum(k**2 for k in way))
        each = [sum((p - q) * w for p, q, w in zip(t[i], h[i], way, strict=True)) / gap**2
                for i in range(7)]  # fmt: skip
        mean = np.array([sum(t[i, k] - h[i, k] for i in range(7)) / 7 for k in range(5)])
        along = sum(each) / 7
        across = math.sqrt(sum((m - along * w) ** 2 for m, w in zip(mean, way, strict=True))) / gap
        assert found["along"][layer].item() == pytest.approx(along)
        assert found["orthogonal"][layer].item() == pytest.approx(across)
        assert found["along_low"][layer].item() == pytest.approx(np.quantile(each, 0.25))
        assert found["along_high"][layer].item() == pytest.approx(np.quantile(each, 0.75))
        sizes = [math.sqrt(sum(k**2 for k in one)) for one in [*h, *b]]
        assert found["gap"][layer].item() == pytest.approx(gap / (sum(sizes) / 16))
        total = np.linalg.norm(mean) / gap
        assert along**2 + across**2 == pytest.approx(total**2)
        assert found["along_share"][layer].item() == pytest.approx(along**2 / total**2)


def test_what_goes_over_to_the_other_kind_has_gone_one_gap():
    hazard, benign = draw((7, 5), 0, (2,)), draw((7, 5), 1, (2,)) + 4
    way = hazard.mean(1, keepdim=True) - benign.mean(1, keepdim=True)
    direction = HarmDirection.between(hazard, benign)
    for now, then, along in ((benign + way, benign, 1), (hazard - way, hazard, -1)):
        found = direction.shift(now, then)
        assert found["along"].tolist() == pytest.approx([along] * 2)
        assert found["orthogonal"].tolist() == pytest.approx([0, 0], abs=1e-12)
        assert found["along_share"].tolist() == pytest.approx([1, 1])
    aside = torch.linalg.qr(torch.cat([way[0].T, draw((5, 1), 3)], 1)).Q[:, 1]
    assert direction.shift(hazard + aside, hazard)["along"][0].item() == pytest.approx(0, abs=1e-12)


def test_kinds_with_the_same_mean_have_no_direction():
    with pytest.raises(InvalidValueError, match="same mean at layer 0, 1"):
        HarmDirection.between(torch.ones(2, 3, 4), torch.ones(2, 5, 4))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_beside_itself_is_alike_and_has_not_moved(family):
    model = tiny.FAMILIES[family]()
    for row in rows_of(Similarity(), model, model):
        if isinstance(row, DirectionalDrift):
            assert (row.values == [0.0] * 2) != (row.measure == "gap")
        else:
            same = {"cka": 1.0, "procrustes": 0.0}[row.measure]
            assert row.values == pytest.approx([same] * 2, abs=1e-12)


def test_rows_say_how_many_states_stand_behind_them():
    rows = rows_of(Similarity(positions="response"), tiny.llama(1), tiny.llama(0))
    for row in rows:
        batch = panel().batch(row.group)
        expected = int(batch.response_mask.sum()) if isinstance(row, StateSimilarity) else 6
        assert row.n == expected and len(row.values) == 2
    assert {r.measure for r in rows} == {"cka", "procrustes", "along", "orthogonal", "along_share",
                                         "along_low", "along_high", "gap"}  # fmt: skip


def test_one_kind_of_text_alone_has_no_direction_of_harm():
    probe = Similarity()
    states = {k: v for k, v in probe._read(tiny.llama(), panel()).items() if k[0] == "hazard"}
    rows = probe.fit(states)(states, AT)
    assert {r.kind for r in rows} == {"state_similarity"}
