"""Linear probes: theorems, scikit-learn as oracle, and what must read nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from sklearn.linear_model import LinearRegression, RidgeClassifier, RidgeClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from tests import tiny
from tests.probes.texts import AT, TinyDomain, panel, rows_of
from workbench.errors import InvalidValueError, ModelError
from workbench.panel import Panel
from workbench.probes import LinearProbe, _ridge
from workbench.probes._discrimination import accuracy, auroc, calibration_error
from workbench.probes._examples import prepared
from workbench.probes._fitters import ALPHAS, LinearReader, Ridge, Sklearn, SklearnReader
from workbench.states import States

LAYERS, N, D = 3, 24, 40


def data(seed=0, n=N, d=D, gap=0.6, layers=LAYERS):
    """States of two classes, a few tenths of a standard deviation apart in each dimension."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2 == 0
    x = torch.randn(layers, n, d, generator=draw) + 3
    return x + gap * labels[:, None] * torch.randn(layers, 1, d, generator=draw), labels


def oracle(**told):
    return Sklearn(lambda: RidgeClassifierCV(alphas=ALPHAS, **told))


# The fast path is scikit-learn's


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), d=st.sampled_from([3, 23, 24, 80]), gap=st.floats(0, 3))
def test_ridge_decides_as_scikit_learn_does(seed, d, gap):
    x, labels = data(seed, d=d, gap=gap)
    train, test = torch.arange(N) < 16, torch.arange(N) >= 16
    ours = Ridge().fit(x[:, train], labels[train])(x[:, test])
    theirs = oracle().fit(x[:, train], labels[train])(x[:, test])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [5, 24, 60])
def test_leave_one_out_errors_are_scikit_learns_and_brute_force(d):
    x, labels = data(3, d=d)
    solution = _ridge.solve(_ridge.gram(x), labels[None], ALPHAS)
    y = 2.0 * labels.numpy() - 1
    for layer in range(LAYERS):
        one = x[layer].double().numpy()
        fitted = RidgeClassifierCV(alphas=ALPHAS, store_cv_results=True).fit(one, labels.numpy())
        errors = solution.errors[:, layer, 0].square().T.numpy()
        np.testing.assert_allclose(errors, fitted.cv_results_[:, 0], rtol=1e-6)
        assert ALPHAS[solution.best[layer, 0]] == fitted.alpha_
        for i in (0, 7):
            rest = np.arange(N) != i
            for a, alpha in enumerate(ALPHAS):
                left = RidgeClassifier(alpha=alpha).fit(one[rest], labels.numpy()[rest])
                # The class's own fit would weigh labels alike; decisions are the regression's.
                missed = y[i] - left.decision_function(one[[i]])[0]
                assert solution.errors[a, layer, 0, i].item() == pytest.approx(missed, rel=1e-6)


def test_dual_is_primal():
    x, labels = data(1)
    y = 2.0 * labels.double() - 1
    (alpha,) = alphas = (0.7,)
    reader = Ridge(alphas).fit(x, labels)
    for layer in range(LAYERS):
        one = x[layer].double() - x[layer].double().mean(0)
        penalty = alpha * torch.eye(D, dtype=torch.float64)
        primal = torch.linalg.solve(one.T @ one + penalty, one.T @ (y - y.mean()))
        torch.testing.assert_close(reader.weights[layer], primal, rtol=1e-9, atol=1e-12)


def test_many_label_sets_and_splits_equal_one_at_a_time():
    x, labels = data(2)
    draw = torch.Generator().manual_seed(0)
    sets = torch.stack([labels, labels[torch.randperm(N, generator=draw)]])
    splits = [(torch.arange(0, 16), torch.arange(16, N)), (torch.arange(6, N), torch.arange(6))]
    for ours, theirs in zip(
        Ridge().held_out(x, sets, splits), oracle().held_out(x, sets, splits), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_rotation_changes_nothing():
    x, labels = data(4)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)).double())[
        0
    ]
    a = Ridge().fit(x, labels)(x)
    b = Ridge().fit(x.double() @ turn, labels)(x.double() @ turn)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_ridge_goes_to_least_squares_and_its_weights_are_learnt():
    """TAR's released probe hands its optimiser weights that no gradient reaches; ours must move."""
    x, labels = data(5, d=4)
    reader = Ridge((1e-6,)).fit(x, labels)
    y = 2.0 * labels.numpy() - 1
    for layer in range(LAYERS):
        fitted = LinearRegression().fit(x[layer].double().numpy(), y)
        np.testing.assert_allclose(reader.weights[layer], fitted.coef_, rtol=1e-5)
    flipped = Ridge((1e-6,)).fit(x, ~labels)
    torch.testing.assert_close(flipped.weights, -reader.weights)


def test_identical_states_are_answered_by_the_prior():
    x, labels = torch.ones(2, 8, 5), torch.arange(8) < 2
    decided = Ridge().fit(x, labels)(x)
    assert torch.isfinite(decided).all() and (decided < 0).all()


# Measures


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), digits=st.integers(0, 3))
def test_auroc_equals_scikit_learn_ties_and_folds_included(seed, digits):
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(2, 30)).round(digits)
    labels, folds = np.arange(30) % 3 == 0, np.arange(30) // 10
    t = torch.from_numpy
    one = auroc(t(scores), t(labels), torch.zeros(30, dtype=torch.long))
    assert one.tolist() == pytest.approx([roc_auc_score(labels, s) for s in scores])
    by_fold = [[roc_auc_score(labels[folds == f], s[folds == f]) for f in range(3)] for s in scores]
    pairs = [(labels & (folds == f)).sum() * (~labels & (folds == f)).sum() for f in range(3)]
    found = auroc(t(scores), t(labels), t(folds))
    assert found.tolist() == pytest.approx(np.average(by_fold, axis=1, weights=pairs).tolist())


def test_calibration_error_sees_overconfidence_and_repairs_scale():
    draw = torch.Generator().manual_seed(0)
    labels = torch.rand(2000, generator=draw) < 0.5
    folds = torch.arange(2000) % 5
    informative = torch.randn(1, 2000, generator=draw).double() + labels
    for scale in (0.01, 1.0, 1000.0):
        assert calibration_error(scale * informative, labels, folds).item() < 0.05
    broken = torch.where(folds == 0, -informative, informative)  # one fold's scores are turned
    assert calibration_error(broken, labels, folds).item() > 0.08


def test_accuracy_is_at_zero():
    scores = torch.tensor([[1.0, -1.0, 0.5, -2.0]])
    assert accuracy(scores, torch.tensor([True, False, False, False])).item() == 0.75


# The probe


def states(values, group, positions="last_prompt"):
    n = values.shape[1]
    layers = tuple(f"blocks.{i}.hook_resid_post" for i in range(len(values)))
    return States("resid_post", positions, tuple(f"{group}{i}" for i in range(n)), (1,) * n,
                  layers, values)  # fmt: skip


def groups(seed=0, n=40, gap=0.6, **more):
    x, labels = data(seed, 2 * n, gap=gap, **more)
    return {
        ("hazard", "resid_post"): states(x[:, labels], "h"),
        ("benign", "resid_post"): states(x[:, ~labels], "b"),
    }


def told(rows, **how):
    how = {"fitted": "checkpoint", "tested_on": "all"} | how
    return {r.measure: r.values for r in rows if all(getattr(r, k) == v for k, v in how.items())}


def test_separable_states_are_read_without_error():
    then = groups(gap=3.0)
    found = told(LinearProbe().fit(then)(then, AT))
    assert found["auroc"] == found["accuracy"] == [1.0] * LAYERS
    assert max(found["ece"]) < 0.1


@pytest.mark.parametrize("folds", [5, 0])
def test_states_without_hazard_read_as_chance_with_any_folds(folds):
    """Leaving one out and pooling would read far below ½ here; folds keep both labels."""
    then = groups(seed=1, n=48, gap=0.0, layers=8)
    found = told(LinearProbe(folds=folds, shuffles=10).fit(then)(then, AT))
    assert np.mean(found["auroc"]) == pytest.approx(0.5, abs=0.06)
    assert np.mean(found["shuffled_auroc"]) == pytest.approx(0.5, abs=0.04)
    assert all(low < 0.5 < high for low, high in
               zip(found["shuffled_low"], found["shuffled_high"], strict=True))  # fmt: skip


def test_shuffled_labels_read_as_chance_where_true_ones_do_not():
    then = groups(gap=3.0)
    found = told(LinearProbe().fit(then)(then, AT))
    assert np.mean(found["shuffled_auroc"]) == pytest.approx(0.5, abs=0.06)


def test_a_frozen_probe_reads_its_reference_as_it_did_and_a_turned_model_not():
    then = groups(gap=1.0)
    frozen = LinearProbe().fit(then)
    same = frozen(then, AT)
    assert told(same, fitted="reference")["auroc"] == told(same)["auroc"]
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0]
    turned = {key: states(s.values @ turn, key[0][0]) for key, s in then.items()}
    rows = frozen(turned, AT)
    assert told(rows)["auroc"] == pytest.approx(told(same)["auroc"], abs=0.01)
    assert np.mean(told(rows, fitted="reference")["auroc"]) < 0.75
    shifted = {key: states(s.values + 5, key[0][0]) for key, s in then.items()}
    kept = told(frozen(shifted, AT), fitted="reference")
    assert kept["auroc"] == told(same)["auroc"]  # the order survives, the threshold need not
    assert min(kept["accuracy"]) < min(told(same)["accuracy"])


def test_a_frozen_probe_never_judges_what_it_learnt_from():
    """Noise learnt by heart would read as 1 on the same prompts."""
    then = groups(seed=2, n=48, gap=0.0, layers=8)
    found = told(LinearProbe().fit(then)(then, AT), fitted="reference")
    assert np.mean(found["auroc"]) == pytest.approx(0.5, abs=0.08)


def test_twins_are_held_out_together():
    then = groups(n=12)
    made = prepared(then, "resid_post", {}, 5, 0)
    assert made.folds[:12].tolist() == made.folds[12:].tolist()
    assert sorted(np.bincount(made.folds)) == [4, 4, 4, 6, 6]
    judged = torch.cat([test for _, test in made.splits])
    assert sorted(judged.tolist()) == list(range(24))
    for train, test in made.splits:
        assert not set(train.tolist()) & set(test.tolist())


def test_framed_hazards_are_judged_with_their_twins_and_never_learnt():
    then = groups(gap=2.0)
    then["framed", "resid_post"] = then["hazard", "resid_post"]
    rows = LinearProbe().fit(then)(then, AT)
    assert told(rows, tested_on="framed")["auroc"] == told(rows)["auroc"]
    plain = LinearProbe().fit(groups(gap=2.0))(groups(gap=2.0), AT)
    assert told(plain) == told(rows)


@dataclass(frozen=True)
class Parted(TinyDomain):
    """Every second topic is of a part that defences have not seen."""

    def questions(self, split, kind):
        from dataclasses import replace

        return [
            replace(q, domain="unseen") if i % 2 else q
            for i, q in enumerate(super().questions(split, kind))
        ]


@pytest.mark.parametrize("estimator", ["ridge", "logistic", "lda", "mean_difference"])
def test_every_estimator_reads_models_and_transfers(estimator):
    texts = Panel(Parted(), tiny.tokenizer(), "test", 32)
    probe = LinearProbe(estimator=estimator, folds=3, shuffles=2)
    rows = rows_of(probe, tiny.llama(0), tiny.llama(1), texts)
    ways = {(r.fitted, r.trained_on, r.tested_on) for r in rows}
    assert ways == {
        ("checkpoint", "all", "all"), ("checkpoint", "all", "framed"), ("reference", "all", "all"),
        ("reference", "all", "framed"), ("checkpoint", "defended", "unseen"),
    }  # fmt: skip
    assert all(0 <= x <= 1 for r in rows for x in r.values)
    assert {r.estimator for r in rows} == {estimator}
    assert [r.n for r in rows if r.tested_on == "unseen"] == [6, 6]


def test_any_scikit_learn_classifier_drops_in():
    @dataclass(frozen=True, kw_only=True)
    class Kernel(LinearProbe):
        estimator: str = "svm"

        def fitter(self):
            return Sklearn(lambda: SVC(kernel="linear"))

    then = groups(gap=3.0)
    found = told(Kernel(shuffles=0).fit(then)(then, AT), estimator="svm")
    assert found["auroc"] == [1.0] * LAYERS and "shuffled_auroc" not in found


def test_readers_are_frozen():
    x, labels = data()
    for fitter, kind in ((Ridge(), LinearReader), (oracle(), SklearnReader)):
        reader = fitter.fit(x, labels)
        assert isinstance(reader, kind)
        with pytest.raises(AttributeError):
            reader.weights = None


# Bad input


@pytest.mark.parametrize("fitter", [Ridge(), oracle()], ids=["ridge", "sklearn"])
def test_one_class_and_nan_are_refused(fitter):
    x, labels = data()
    with pytest.raises(InvalidValueError, match="have one label"):
        fitter.fit(x, torch.ones(N, dtype=torch.bool))
    x[1, 3, 0] = float("nan")
    with pytest.raises(InvalidValueError, match="states of layers 1 are not finite"):
        fitter.fit(x, labels)


def test_a_model_of_nan_is_refused():
    bad = tiny.llama(0)
    with torch.no_grad():
        bad.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"not finite at blocks\.1"):
        rows_of(LinearProbe(), bad, tiny.llama(1))


def test_too_few_examples_and_missing_kinds_are_refused():
    with pytest.raises(InvalidValueError, match="there are 6 hazard prompts for 7 folds"):
        rows_of(LinearProbe(folds=7), tiny.llama(0), tiny.llama(1))
    hazards = {k: v for k, v in groups().items() if k[0] == "hazard"}
    with pytest.raises(InvalidValueError, match="there are 0 benign prompts"):
        LinearProbe().fit(hazards)
    with pytest.raises(InvalidValueError, match="differ in their examples"):
        LinearProbe().fit(groups())(groups(n=20), AT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "response"}, "positions"),
        ({"folds": 1}, "folds must be 2 or more"),
        ({"shuffles": -1}, "shuffles must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises((InvalidValueError, TypeCheckError), match=message):
        LinearProbe(**settings)


def test_alphas_must_be_positive():
    with pytest.raises(InvalidValueError, match="alphas must be one or more positive numbers"):
        Ridge((0.0,)).fit(*data())


@pytest.mark.parametrize("made", [LinearRegression, object], ids=["regressor", "object"])
def test_what_is_no_classifier_is_refused(made):
    with pytest.raises(InvalidValueError, match="decision_function or predict_proba"):
        Sklearn(made)


def test_panels_of_either_kind_only_are_refused():
    assert panel().groups == ("hazard", "benign")
