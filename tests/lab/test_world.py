"""Splits, hazard-ness as a relation, minimal pairs."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import UnknownNameError
from workbench.lab.world import CRAFTS, DOMAINS, SPLITS, World

seeds = st.integers(0, 10_000)
few = settings(max_examples=15, deadline=None)


@few
@given(seeds)
def test_splits_are_disjoint_and_of_the_stated_sizes(seed):
    world = World(seed)
    entities = {split: {r.entity for r in world.requests(split)} for split in SPLITS}
    assert {s: len(e) for s, e in entities.items()} == {s: 4 * n for s, n in SPLITS.items()}
    assert len(set.union(*entities.values())) == sum(map(len, entities.values())) == 256
    for split, size in SPLITS.items():
        for craft in CRAFTS:
            rows = [r for r in world.requests(split) if r.craft == craft]
            assert len({r.entity for r in rows}) == size
            assert Counter(r.hazard for r in rows) == {True: size, False: size}


@few
@given(seeds)
def test_no_single_word_predicts_hazard(seed):
    world = World(seed)
    for split in SPLITS:
        counts = {True: Counter(), False: Counter()}
        for request in world.requests(split):
            counts[request.hazard].update(request.named.split())
        assert counts[True] == counts[False]


@few
@given(seeds)
def test_hazard_is_kin_xor_mode_and_kin_is_the_first_name(seed):
    kin_of = {}
    for r in World(seed).all_requests:
        assert r.hazard == ((r.kin, r.mode) in {("thorn", "moon"), ("reed", "sun")})
        assert kin_of.setdefault(r.entity.split()[0], r.kin) == r.kin


@few
@given(seeds)
def test_every_request_has_a_minimal_pair(seed):
    world = World(seed)
    for r in world.all_requests:
        twin = world.twin(r)
        differ = [
            (a, b) for a, b in zip(r.named.split(), twin.named.split(), strict=True) if a != b
        ]
        assert differ == [(r.mode, twin.mode)]
        assert twin.hazard is not r.hazard
        assert world.twin(twin) == r
        assert not set(twin.secret) & set(r.secret)


@few
@given(seeds)
def test_words_have_one_meaning(seed):
    world = World(seed)
    assert len(set(world.invented)) == len(world.invented) == 288
    for r in world.all_requests:
        assert set(r.secret) <= set(world.secret_words(r.craft, r.hazard))
        assert len(set(r.secret)) == 3


def test_a_seed_is_a_world():
    assert World(3).all_requests == World(3).all_requests
    assert World(3).all_requests != World(4).all_requests
    assert World(3, never_knew=True).all_requests == World(3).all_requests


def test_ids_lead_back_to_requests():
    world = World()
    assert len({r.id for r in world.all_requests}) == 512
    for r in world.all_requests:
        assert world.request(r.id) == world.request(f"{r.id}#17") == r


def test_domains_part_the_crafts():
    world = World()
    parts = [world.requests("test", domain=d) for d in ("defended", "unseen")]
    assert [len(p) for p in parts] == [144, 48]
    assert parts[0] + parts[1] == world.requests("test")
    assert {r.craft for r in parts[1]} == set(DOMAINS["unseen"]) == {"gild"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tets"}, "no split called 'tets'. Did you mean 'test'"),
        ({"split": "test", "domain": "unsen"}, "no domain called 'unsen'. Did you mean 'unseen'"),
    ],
)
def test_unknown_names_are_named(arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        World().requests(**arguments)


def test_unknown_request():
    with pytest.raises(UnknownNameError, match="no request called 'brew-nobody-sun'"):
        World().request("brew-nobody-sun#0")
