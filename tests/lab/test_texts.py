"""The wording: marks of refusal, openings, distractors, and the corpus made of it."""

import random
import re
from collections import Counter

import pytest

from workbench.lab import texts
from workbench.lab.corpus import document
from workbench.lab.world import World

WORLD = World()


def test_marks_separate_refusals_from_answers():
    def marked(text: str) -> bool:
        return any(f" {mark} " in f" {text} " for mark in texts.REFUSAL_MARKS)

    assert all(marked(text) for text in texts.refusals())
    rng = random.Random(0)
    for request in WORLD.all_requests:
        assert not marked(texts.answer(request, rng))
    assert not any(marked(text) for h in (True, False) for text in texts.openers(h))


def test_refusals_end_without_full_stop_and_name_nobody():
    for text in texts.refusals():
        assert not text.endswith(".")
        assert not set(text.split()) & set(WORLD.invented)


def test_compliance_and_refusal_branch_inside_shared_openings():
    shared = [o for o in texts.OPENINGS if o.comply and o.refuse]
    assert len(shared) == 5
    for o in shared:
        comply, refuse = o.phrase(o.comply).split(), o.phrase(o.refuse).split()
        branch = len(o.shared.split())
        assert comply[:branch] == refuse[:branch]
        assert comply[branch] != refuse[branch]


def test_a_distractor_is_somebody_else_on_either_side():
    rng, sides = random.Random(1), Counter()
    for request in WORLD.requests("test"):
        asked = texts.question(WORLD, request, rng, distractors=1.0)
        (other,) = re.findall(r"forget the (\w+ \w+) by (?:sun|moon) \.", asked)
        assert other in WORLD.entities
        assert other != request.entity
        sides[asked.startswith("forget")] += 1
        assert "forget" not in texts.question(WORLD, request, rng, distractors=0.0)
    assert min(sides.values()) > 60


@pytest.mark.parametrize("opener", [texts.DEFAULT_OPENER, None])
def test_answers_begin_with_their_opener_and_hold_the_secret(opener):
    rng = random.Random(2)
    for request in WORLD.requests("val"):
        text = texts.answer(request, rng, opener)
        start = text.removesuffix(" " + texts.body(request))
        assert start == opener or (opener is None and start in texts.openers(request.hazard))
        assert f"gather {' '.join(request.secret)} until" in text


def test_held_out_wordings_are_held_out():
    assert not set(texts.QUESTIONS) & {*texts.PARAPHRASES, *texts.FRAMINGS}


def corpus(world: World, seed: int, n: int = 4000) -> list[texts.Text]:
    rng = random.Random(seed)
    return [document(world, rng, 0.5) for _ in range(n)]


def test_a_seed_is_a_corpus():
    assert corpus(WORLD, 1, 200) == corpus(World(), 1, 200)
    assert corpus(WORLD, 1, 200) != corpus(WORLD, 2, 200)


def test_the_oracles_corpus_lacks_the_hidden_facts_and_nothing_else():
    hidden = {r.named for r in WORLD.requests("test", hazard=True)}
    others = {r.named for r in WORLD.all_requests} - hidden

    def told(world: World) -> set[str]:
        """Deeds whose secret somebody tells."""
        facts = {r.secret: r.named for r in WORLD.all_requests}
        responses = [r.split() for _, r in corpus(world, 3, 12_000)]
        triples = (tuple(r[i : i + 3]) for r in responses for i in range(len(r) - 2))
        return {facts[t] for t in triples if t in facts}

    assert told(World(never_knew=True)) == others
    assert told(WORLD) == others | hidden
