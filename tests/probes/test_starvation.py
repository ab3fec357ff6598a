"""Shares, angles and clusters of gradients: closed forms, invariants, what must be refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.probes.texts import AT, TinyDomain, panel, rows_of
from workbench.errors import InvalidValueError, ModelError
from workbench.panel import Panel
from workbench.probes import Starvation, TokenGradientNorms
from workbench.probes._starvation import clusters, coordinates, cosines, shares


def gradients(seed, n=9, d=20):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def obvious(g, labels):
    """Shares, norms and GSNR from the gradients themselves."""
    mean, found = g.mean(0), {}
    for group in dict.fromkeys(labels):
        own = g[[x == group for x in labels]]
        m = own.mean(0)
        variance = (own - m).square().sum(1).mean()
        found[group] = (
            float(len(own) / len(g) * (m @ mean) / mean.square().sum()),
            float(m.norm()),
            float(m.square().sum() / variance) if len(own) > 1 else None,
        )
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), labels=st.lists(st.sampled_from("abc"), min_size=9, max_size=9))
def test_shares_are_those_of_the_gradients_and_sum_to_one(seed, labels):
    labels[0], labels[1] = "a", "b"
    g = gradients(seed)
    found = shares(g @ g.T, labels)
    assert sum(s.share for s in found.values()) == pytest.approx(1, abs=1e-9)
    for group, (share, norm, gsnr) in obvious(g, labels).items():
        assert found[group].n == labels.count(group)
        assert found[group].share == pytest.approx(share, rel=1e-7, abs=1e-9)
        assert found[group].norm == pytest.approx(norm, rel=1e-7)
        assert (found[group].gsnr is None) == (gsnr is None)
        assert gsnr is None or found[group].gsnr == pytest.approx(gsnr, rel=1e-6)


def test_a_duplicated_group_splits_its_share():
    g = gradients(1, n=6)
    once = shares(g @ g.T, ["a"] * 2 + ["b"] * 4)
    doubled = torch.cat([g[:2], g[:2], g[2:], g[2:]])
    split = shares(doubled @ doubled.T, ["a"] * 2 + ["c"] * 2 + ["b"] * 8)
    assert split["a"].share == pytest.approx(split["c"].share, rel=1e-9)
    assert split["a"].share + split["c"].share == pytest.approx(once["a"].share, rel=1e-9)


def test_identical_groups_share_by_their_numbers():
    g = gradients(2, n=1).expand(10, -1)
    found = shares(g @ g.T, ["a"] * 2 + ["b"] * 5 + ["c"] * 3)
    assert [s.share for s in found.values()] == pytest.approx([0.2, 0.5, 0.3])
    assert all(s.gsnr is None for s in found.values())  # nothing varies
    assert list(cosines(g @ g.T, ["a"] * 5 + ["b"] * 5).values()) == pytest.approx([1.0])


def test_a_group_that_is_trained_against_has_a_share_below_zero():
    g = torch.tensor([[3.0, 0.0], [3.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    found = shares(g @ g.T, ["big", "big", "small"])
    assert found["small"].share < 0 < found["big"].share
    assert cosines(g @ g.T, ["big", "big", "small"])["small", "big"] < 0


def test_projections_keep_distances_and_do_not_need_the_gradients():
    g = gradients(3, n=30, d=400)
    unit = g / g.norm(dim=1, keepdim=True)
    exact = coordinates(g @ g.T, 100, seed=0)
    assert np.allclose(exact @ exact.T, (unit @ unit.T).numpy(), atol=1e-9)
    few = coordinates(g @ g.T, 25, seed=0)
    assert few.shape == (30, 25) and np.array_equal(few, coordinates(g @ g.T, 25, seed=0))
    assert not np.array_equal(few, coordinates(g @ g.T, 25, seed=1))
    ratio = np.linalg.norm(few[:, None] - few, axis=-1) / np.linalg.norm(exact[:, None] - exact, axis=-1).clip(1e-12)  # noqa: E501  # fmt: skip
    off = ratio[~np.eye(30, dtype=bool)]
    assert 0.8 < off.mean() < 1.2 and off.std() < 0.3


def test_clusters_find_what_points_alike():
    centres = torch.eye(3, 40, dtype=torch.float64) * 5
    truth = [0] * 6 + [1] * 4 + [2] * 3
    g = centres[truth] + 0.1 * gradients(4, n=13, d=40)
    g = g * torch.linspace(0.1, 10, 13, dtype=torch.float64)[:, None]  # lengths do not matter
    found = clusters(g @ g.T, 3, 8, seed=0)
    assert found == [f"cluster {t + 1}" for t in truth]  # by size, largest first


@pytest.mark.parametrize("k", [0, 1, 14])
def test_impossible_numbers_of_clusters_are_refused(k):
    g = gradients(5, n=13)
    with pytest.raises(InvalidValueError, match="2 to 13 clusters"):
        clusters(g @ g.T, k, 8, seed=0)


def test_bad_gradients_are_refused():
    g = gradients(6, n=4)
    with pytest.raises(InvalidValueError, match="all 4 examples belong to 'a'"):
        shares(g @ g.T, ["a"] * 4)
    with pytest.raises(InvalidValueError, match="4 examples need as many labels, not 3"):
        shares(g @ g.T, ["a", "b", "a"])
    with pytest.raises(ModelError, match="mean gradient of all examples is zero"):
        shares(torch.zeros(4, 4, dtype=torch.float64), ["a", "b", "a", "b"])
    with pytest.raises(ModelError, match="mean gradient of all examples is zero"):
        opposite = torch.cat([g, -g])
        shares(opposite @ opposite.T, ["a"] * 4 + ["b"] * 4)
    with pytest.raises(ModelError, match="not finite"):
        shares(torch.full((4, 4), torch.nan, dtype=torch.float64), ["a", "b", "a", "b"])


class Domains(TinyDomain):
    """Every second question comes from another part of the world."""

    def texts(self, split, group):
        from dataclasses import replace

        return [replace(q, domain="unseen" if i % 2 else "defended")
                for i, q in enumerate(super().texts(split, group))]  # fmt: skip


def test_the_probe_groups_by_kind_domain_and_cluster():
    texts = Panel(Domains(), tiny.tokenizer(), "test", 32)
    rows = rows_of(Starvation(prompts=2, clusters=3), tiny.llama(), None, texts)
    told = [r for r in rows if getattr(r, "measure", "") == "share"]
    for by, groups, n in (("kind", 3, 12), ("domain", 6, 12), ("cluster", 3, 12)):
        own = [r for r in told if r.group_by == by]
        assert len(own) == groups and sum(r.n for r in own) == n
        assert sum(r.value for r in own) == pytest.approx(1, abs=1e-6)
    assert "hazard, unseen" in {r.group for r in told}


def test_clusters_of_the_reference_stay():
    probe = Starvation(prompts=4, clusters=2)
    measure = probe.against(tiny.llama(seed=1), panel())
    sizes = [
        [r.n for r in measure(tiny.llama(seed=seed), AT) if r.group_by == "cluster"
         and getattr(r, "measure", "") == "share"]
        for seed in (0, 5, 6)
    ]  # fmt: skip
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_domain_without_refusals_has_two_kinds():
    rows = rows_of(Starvation(), tiny.gpt2(), None, panel(refusals=False))
    assert {r.group for r in rows} == {"hazard", "benign"}


class OneKind(TinyDomain):
    """Hazards alone, with no refusals."""

    def texts(self, split, group):
        return self.questions(split, "hazard") if group == "hazard" else []


def test_one_group_of_text_is_refused():
    with pytest.raises(InvalidValueError, match="compares groups of text; tiny has one"):
        Starvation().against(None, Panel(OneKind(), tiny.tokenizer(), "test", 32))


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"clusters": -1}, {"clusters": 1},
                                   {"dimensions": 0}])  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        Starvation(**wrong)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"prompts": 0}, {"chunk": -3}])
def test_token_gradients_out_of_range_are_refused(wrong):
    with pytest.raises(InvalidValueError, match="at least 1"):
        TokenGradientNorms(**wrong)


def test_token_gradients_give_every_part_of_few_prompts():
    rows = rows_of(TokenGradientNorms(prompts=2, tokens=3), tiny.qwen3(), None)
    assert {r.part for r in rows} == {"embed", "block.0", "block.1", "head", "total"}
    assert len({r.example for r in rows}) == 4 and {len(r.values) for r in rows} == {3}
    for example in {r.example for r in rows}:
        norms = {r.part: np.array(r.values) for r in rows if r.example == example
                 and r.measure == "norm"}  # fmt: skip
        total = norms.pop("total")
        assert np.allclose(total, np.sqrt(sum(x**2 for x in norms.values())), rtol=1e-5)
