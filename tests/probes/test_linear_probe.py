"""Linear probes: theorems, scikit-learn as oracle, and what must read nothing."""

import json
import sys
from dataclasses import dataclass
from random import Random

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
from tests.probes.texts import AT, TinyDomain, rows_of
from workbench.domains import Question
from workbench.errors import InvalidValueError, ModelError, WorkbenchError, WorkbenchWarning
from workbench.file_domain import FileDomain
from workbench.panel import Panel
from workbench.probes import LinearProbe, _ridge
from workbench.probes._discrimination import accuracy, auroc, calibration_error
from workbench.probes._examples import prepared
from workbench.probes._fitters import ALPHAS, LinearReader, Ridge, Sklearn, SklearnReader
from workbench.states import States

LAYERS, N, D = 3, 24, 40
WORDS = [f"{a}{b}" for a in "bdgklmnprst" for b in ("ab", "em", "il", "on", "ur")]


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


# Equal prompts


def repeated(where, prompts=150, times=4, **more):
    """A domain of random words, every prompt in it with several answers."""
    random = Random(0)
    for stream in ("harmful", "ref"):
        asked = [" ".join(random.choices(WORDS, k=6)) for _ in range(prompts)]
        rows = [{"prompt": p, "response": f"answer {k}"} for p in asked for k in range(times)]
        (where / f"{stream}.jsonl").write_text("\n".join(json.dumps(r | more) for r in rows))
    return Panel(FileDomain.open(where), tiny.tokenizer(), "test", 32)


def test_a_prompt_with_several_answers_is_not_recognised(tmp_path):
    """Its state is the same for each, so in several folds it would read as AUROC 1."""
    texts = repeated(tmp_path)
    rows = rows_of(LinearProbe(examples=160), tiny.llama(0), tiny.llama(1), texts)
    for fitted in ("checkpoint", "reference"):
        assert all(0.35 < x < 0.65 for x in told(rows, fitted=fitted)["auroc"])
    found = told(rows)
    wide = [h - c for h, c in zip(found["shuffled_high"], found["shuffled_auroc"], strict=True)]
    assert min(wide) > 0.05  # of 40 prompts, not of 160 rows


def test_equal_states_of_a_recording_are_held_out_together():
    once = groups(seed=1, n=24, gap=0.0, layers=8)
    then = {key: states(s.values.repeat_interleave(4, 1), key[0][0]) for key, s in once.items()}
    jitter = {key: states(s.values * (1 + 1e-5 * torch.rand(s.values.shape)), key[0][0])
              for key, s in then.items()}  # fmt: skip
    for same in (then, jitter):
        made = prepared(same, "resid_post", {}, 5, 0)
        assert (made.folds.view(-1, 4) == made.folds[::4, None]).all()
        assert len(made.prompts.unique()) == 48
    found = told(LinearProbe(shuffles=0).fit(then)(then, AT))
    assert np.mean(found["auroc"]) < 0.65


def test_folds_of_different_prompts_are_drawn_as_without_texts():
    then = groups(n=12)
    asked = {g: [Question(str(i), g, "defended", f"{g} {i}", "") for i in range(12)]
             for g in ("hazard", "benign")}  # fmt: skip
    known, unknown = (prepared(then, "resid_post", texts, 5, 0) for texts in (asked, {}))
    assert torch.equal(known.folds, unknown.folds)
    order = np.random.default_rng((0, 0)).permutation(12) % 5
    assert known.folds.tolist() == [*order, *order]


def test_a_prompt_of_both_kinds_is_in_one_fold_and_keeps_its_labels():
    then = groups(n=12)
    texts = {g: [Question(str(i), g, "defended", f"ask {i % 9}", "") for i in range(12)]
             for g in ("hazard", "benign")}  # fmt: skip
    made = prepared(then, "resid_post", texts, 3, 0)
    assert len(made.prompts.unique()) == 9
    for number in range(9):
        assert len(made.folds[made.prompts == number].unique()) == 1
    for labels in made.labelled(5, 0, made.blocks):
        for kind in (slice(0, 12), slice(12, 24)):
            for number in range(3):
                assert len(labels[kind][made.prompts[kind] == number].unique()) == 1


# Parts


def asked_of(parts, n):
    """Questions of both kinds, n of each kind and part; the first is the same in every part."""
    return {
        g: [Question(f"{p}{i}", g, "defended", f"{g} {p if i else ''} {i}", "", p)
            for p in parts for i in range(n)]
        for g in ("hazard", "benign")
    }  # fmt: skip


def test_every_two_parts_are_judged_both_ways_and_shared_prompts_not_learnt():
    then = groups(n=12)
    made = prepared(then, "resid_post", asked_of("abc", 4), 3, 0)
    ways = {(one, other): split for one, other, split in made.transfers}
    assert set(ways) == {(a, b) for a in "abc" for b in "abc" if a != b}
    for train, test in ways.values():
        assert len(train) == 6 and len(test) == 8  # without the prompt that the other part has
        assert not set(made.prompts[train].tolist()) & set(made.prompts[test].tolist())


def test_many_parts_are_cut_to_the_largest_with_a_warning():
    then = groups(n=12)
    with pytest.warns(WorkbenchWarning, match="between the 4 largest parts.*Left out: e, f"):
        made = prepared(then, "resid_post", asked_of("abcdef", 2), 2, 0)
    assert {one for one, _, _ in made.transfers} <= set("abcd")


def test_a_source_column_makes_parts(tmp_path):
    random = Random(0)
    for stream in ("harmful", "ref"):
        rows = [{"prompt": " ".join(random.choices(WORDS, k=6)), "response": "r",
                 "Source": "ab"[i % 2]} for i in range(200)]  # fmt: skip
        (tmp_path / f"{stream}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = Panel(FileDomain.open(tmp_path), tiny.tokenizer(), "test", 32)
    rows = rows_of(LinearProbe(shuffles=5), tiny.llama(0), tiny.llama(1), texts)
    assert {("a", "b"), ("b", "a")} <= {(r.trained_on, r.tested_on) for r in rows}
    assert all(low < 0.5 < high for low, high in zip(
        *(told(rows, trained_on="a", tested_on="b")[m] for m in ("shuffled_low", "shuffled_high")),
        strict=True))  # fmt: skip


def test_framed_hazards_without_twins_are_left_out_with_a_warning():
    then = groups(n=12)
    then["framed", "resid_post"] = states(then["hazard", "resid_post"].values[:, :9], "f")
    with pytest.warns(WorkbenchWarning, match="9 framed hazards are left out"):
        rows = LinearProbe(shuffles=2).fit(then)(then, AT)
    assert not told(rows, tested_on="framed")


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
        ("checkpoint", "unseen", "defended"),
    }  # fmt: skip
    assert all(0 <= x <= 1 for r in rows for x in r.values)
    assert {r.estimator for r in rows} == {estimator}
    assert {r.n for r in rows if r.tested_on in ("defended", "unseen")} == {6}
    by_way = [
        {r.measure for r in rows if (r.fitted, r.trained_on, r.tested_on) == way} for way in ways
    ]
    chance = {"shuffled_auroc", "shuffled_low", "shuffled_high"}
    assert all(measures - {"ece"} == {"auroc", "accuracy"} | chance for measures in by_way)


def test_any_scikit_learn_classifier_drops_in():
    @dataclass(frozen=True, kw_only=True)
    class Kernel(LinearProbe):
        estimator: str = "svm"

        def fitter(self):
            return Sklearn(lambda: SVC(kernel="linear"))

    then = groups(gap=3.0)
    found = told(Kernel(shuffles=0).fit(then)(then, AT), estimator="svm")
    assert found["auroc"] == [1.0] * LAYERS and "shuffled_auroc" not in found


def test_a_classifier_is_named_by_module_and_class():
    then = groups(gap=3.0)
    name = "sklearn.svm:LinearSVC"
    found = told(LinearProbe(estimator=name, shuffles=0).fit(then)(then, AT), estimator=name)
    assert found["auroc"] == [1.0] * LAYERS


@pytest.mark.parametrize(("name", "message"), [
    ("ridgee", "Did you mean 'ridge'"),
    ("sklearn.svm:Nothing", "cannot be imported"),
    ("no.such.module:Class", "cannot be imported"),
    (":Class", "cannot be imported"),
    (".relative:Class", "cannot be imported"),
    ("sklearn.pipeline:make_pipeline", "is no class with a method fit"),
    ("pathlib:Path", "is no class with a method fit"),
    ("sklearn.ensemble:VotingClassifier", "cannot be made without arguments"),
    ("sklearn.linear_model:Ridge", "decision_function or predict_proba"),
])  # fmt: skip
def test_what_is_no_estimator_is_refused_at_the_door(name, message):
    with pytest.raises(WorkbenchError, match=message):
        LinearProbe(estimator=name)


@pytest.mark.parametrize("name", ["exit", "Popen"])
def test_what_is_no_estimator_is_not_called(name, monkeypatch):
    class Popen:
        def __init__(self):
            sys.exit("called")

    monkeypatch.setattr(sys, "Popen", Popen, raising=False)
    with pytest.raises(InvalidValueError, match=f"'sys:{name}' is no class with a method fit"):
        LinearProbe(estimator=f"sys:{name}")


def test_many_label_sets_are_learnt_as_one_at_a_time():
    x, labels = data(6)
    sets = torch.stack([labels, labels.roll(1)])
    for one, reader in zip(sets, Ridge().fit_each(x, sets), strict=True):
        torch.testing.assert_close(reader(x), Ridge().fit(x, one)(x))


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
    with pytest.raises(InvalidValueError, match="there are 6 different hazard prompts for 7 folds"):
        rows_of(LinearProbe(folds=7), tiny.llama(0), tiny.llama(1))
    hazards = {k: v for k, v in groups().items() if k[0] == "hazard"}
    with pytest.raises(InvalidValueError, match="there are no benign prompts"):
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


@dataclass(frozen=True)
class OneKind(TinyDomain):
    """Asks nothing of the other kind."""

    kind: str = "hazard"

    def questions(self, split, kind):
        return super().questions(split, kind) if kind == self.kind else []


@pytest.mark.parametrize(("kind", "other"), [("hazard", "benign"), ("benign", "hazard")])
def test_panels_of_either_kind_only_are_refused(kind, other):
    texts = Panel(OneKind(kind=kind), tiny.tokenizer(), "test", 32)
    assert texts.groups == (kind,)
    with pytest.raises(InvalidValueError, match=f"there are no {other} prompts"):
        rows_of(LinearProbe(), tiny.llama(0), tiny.llama(1), texts)
