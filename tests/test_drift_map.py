"""The frozen map: what it promises, what it refuses, and how far it can be believed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.drift_map import DriftMap, usable_perplexity
from workbench.errors import InvalidValueError
from workbench.map_quality import SAMPLE, arrows, judged, quality

METHODS = ("tsne", "pca")
both = pytest.mark.parametrize("method", METHODS)


def two_clusters(n=64, d=96, seed=0):
    """Hazards and benign ones, far apart in the first dimension."""
    states = np.random.default_rng(seed).normal(size=(n, d))
    states[: n // 2, 0] += 20
    return states


@pytest.fixture(scope="module")
def states():
    return two_clusters()


@pytest.fixture(scope="module")
def tsne(states):
    return DriftMap.fit(states)


@both
@pytest.mark.parametrize("n", [12, 64])
def test_the_same_seed_gives_the_same_map(method, n):
    states = two_clusters(n)
    one, two = (DriftMap.fit(states, method) for _ in range(2))
    assert np.array_equal(one.places, two.places)
    first = one.transform(states)
    assert np.array_equal(first, one.transform(states))  # the map has not moved
    assert np.array_equal(first, two.transform(states))


def test_states_that_did_not_move_land_near_their_places(tsne, states):
    off = np.linalg.norm(tsne.transform(states) - tsne.places, axis=1).mean()
    assert off < 0.02 * np.ptp(tsne.places, axis=0).max()


def test_placing_points_leaves_the_map_alone(tsne, states):
    before = tsne.places.copy()
    tsne.transform(states[:5] + 3)
    assert np.array_equal(before, tsne.places)
    assert np.array_equal(np.asarray(tsne._embedding), before)


def test_each_point_is_placed_by_itself(tsne, states):
    alone = tsne.transform(states[10:12])
    assert alone == pytest.approx(tsne.transform(states)[10:12], abs=1e-6)


def test_pca_is_the_projection_on_the_two_widest_directions(states):
    made = DriftMap.fit(states, "pca")
    assert np.allclose(made.transform(states), made.places, atol=1e-10)
    centre = states - states.mean(0)
    values, vectors = np.linalg.eigh(centre.T @ centre)
    expected = centre @ vectors[:, ::-1][:, :2]
    assert np.allclose(np.abs(made.places), np.abs(expected), atol=1e-8)
    assert np.allclose(np.square(made.places).sum(0), values[::-1][:2])


@given(st.integers(3, 40), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_permuting_prompts_permutes_points_of_pca(n, d, seed):
    random = np.random.default_rng(seed)
    states, order = random.normal(size=(n, d)), random.permutation(n)
    one, other = DriftMap.fit(states, "pca"), DriftMap.fit(states[order], "pca")
    assert np.allclose(one.places[order], other.places, atol=1e-6)


def test_clusters_stay_apart_and_a_point_that_changes_sides_is_seen(tsne, states):
    hazard, benign = tsne.places[:32].mean(0), tsne.places[32:].mean(0)
    gone = tsne.transform(states[32:] + np.eye(96)[0] * 20)
    near = np.linalg.norm(gone - hazard, axis=1) < np.linalg.norm(gone - benign, axis=1)
    assert near.all()


@pytest.mark.parametrize(("n", "asked", "used"), [
    (4, None, 1), (12, None, 11 / 3), (64, None, 21), (91, None, 30), (5000, None, 30),
    (64, 5.0, 5.0), (64, 21.0, 21.0),
])  # fmt: skip
def test_the_perplexity_fits_the_points(n, asked, used):
    assert usable_perplexity(n, asked) == pytest.approx(used)


@pytest.mark.parametrize(("n", "asked", "says"), [
    (64, 30.0, "30 does not go with 64 points.*1 to 21.*method='pca'"),
    (64, 0.5, "1 to 21"),
    (64, float("nan"), "1 to 21"),
    (3, None, "at least 4 points and there are 3.*method='pca'"),
    (1, 5.0, "there is 1"),
])  # fmt: skip
def test_too_few_points_are_refused(n, asked, says):
    with pytest.raises(InvalidValueError, match=says):
        usable_perplexity(n, asked)


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(method, bad, states):
    broken = states.copy()
    broken[3, 7] = bad
    with pytest.raises(InvalidValueError, match="NaN or infinite"):
        DriftMap.fit(broken, method)
    with pytest.raises(InvalidValueError, match="NaN or infinite"):
        DriftMap.fit(states, "pca").transform(broken)


@both
def test_identical_points_have_no_map(method):
    with pytest.raises(InvalidValueError, match="there are 12, all of them the same"):
        DriftMap.fit(np.ones((12, 5)), method)


@both
def test_some_identical_points_are_no_trouble(method):
    states = two_clusters(16)
    states[:5] = states[0]
    made = DriftMap.fit(states, method)
    assert np.isfinite(made.places).all() and np.isfinite(made.transform(states)).all()


def test_states_of_another_width_are_refused(tsne):
    with pytest.raises(InvalidValueError, match="96 dimensions, not 5"):
        tsne.transform(np.ones((3, 5)))


def slow_quality(states, places, k):
    """Trustworthiness and the share of neighbours kept, by their definitions."""

    def ranks(x):
        distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        np.fill_diagonal(distances, np.inf)
        return distances.argsort(1)

    n, far, kept = len(states), 0, 0
    in_space, in_picture = ranks(states), ranks(places)
    for i in range(n):
        for j in in_picture[i, :k]:
            rank = list(in_space[i]).index(j) + 1
            far += max(0, rank - k)
            kept += rank <= k
    return 1 - 2 * far / (n * k * (2 * n - 3 * k - 1)), kept / (n * k)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_quality_equals_its_definition(n):
    random = np.random.default_rng(n)
    states, places = random.normal(size=(n, 7)), random.normal(size=(n, 2))
    trust, kept = slow_quality(states, places, min(10, (n - 1) // 2))
    found = quality(states, places)
    assert found["trustworthiness"] == pytest.approx(trust)
    assert found["knn_kept"] == pytest.approx(kept)


@given(st.integers(0, 30), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_quality_lies_between_zero_and_one(n, seed):
    random = np.random.default_rng(seed)
    found = quality(random.normal(size=(n, 5)), random.normal(size=(n, 2)))
    assert all(0 <= value <= 1 for value in found.values()) and (len(found) == 2) == (n >= 3)


def test_a_picture_of_a_plane_is_perfect():
    plane = np.random.default_rng(0).normal(size=(50, 2))
    assert quality(plane, 3 * plane) == {"trustworthiness": 1.0, "knn_kept": 1.0}


def test_of_many_points_a_sample_is_judged():
    assert len(judged(SAMPLE)) == SAMPLE and np.array_equal(judged(10), np.arange(10))
    sample = judged(50_000)
    assert len(set(sample)) == SAMPLE and np.array_equal(sample, judged(50_000))


def test_arrows_are_compared_with_what_they_stand_for():
    moved = np.diag([1.0, 2.0, 3.0])
    assert arrows(moved, moved[:, :2] + 0)["drift"] == pytest.approx(2)
    assert arrows(moved, np.array([[1.0, 0], [5, 0], [9, 0]]))["arrow_rank"] == pytest.approx(1)
    assert arrows(np.zeros((3, 3)), np.zeros((3, 2))) == {"drift": 0.0}
