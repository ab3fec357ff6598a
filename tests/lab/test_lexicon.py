"""Nothing the lab says means anything outside it."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import STREAMS, Example
from workbench.lab import lexicon, texts
from workbench.lab.corpus import document
from workbench.lab.streams import evaluation, examples
from workbench.lab.world import SPLITS, World


def everything_said(world: World, seed: int) -> Iterator[str]:
    """Prompts and responses of corpus, streams and evaluation sets."""
    rng = random.Random(seed)
    said: list[texts.Text | Example] = [document(world, rng, 0.5) for _ in range(500)]
    for split in SPLITS:
        for stream in STREAMS:
            said += examples(world, stream, split=split, domain="all", n=24, seed=seed)
        for wording in texts.WORDINGS:
            tests = evaluation(world, split, "all", seed, wording=wording, capability=16)
            for asked in (tests.hazard, tests.benign, tests.skill, tests.judgement, tests.story):
                said += asked
    for text in said:
        pair = (text.prompt, text.response) if isinstance(text, Example) else text
        yield from (part for part in pair if part is not None)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
def test_every_token_is_invented_or_reviewed(seed):
    allowed = {*lexicon.TEMPLATE_WORDS, *lexicon.NUMERALS}
    for text in everything_said(World(seed), seed):
        strange = [w for w in text.split() if w not in allowed and not lexicon.is_invented(w)]
        assert not strange, f"{strange} in {text!r}"


def test_the_review_covers_exactly_what_the_texts_use():
    assert texts.template_words() == lexicon.TEMPLATE_WORDS
    assert len(lexicon.TEMPLATE_WORDS) == 123


@given(st.integers(0, 2**32))
def test_grammar_recognises_its_own_words(seed):
    taken: set[str] = set()
    words = lexicon.invent(50, random.Random(seed), taken)
    assert len(set(words)) == 50
    assert taken == set(words)
    assert all(lexicon.is_invented(w) for w in words)


@pytest.mark.parametrize("word", [*sorted(lexicon.TEMPLATE_WORDS), "poison", "zhel", "", "zhelx"])
def test_grammar_recognises_nothing_else(word):
    assert not lexicon.is_invented(word)


def test_invented_words_are_never_drawn_twice():
    rng, taken = random.Random(0), set()
    first, second = lexicon.invent(300, rng, taken), lexicon.invent(300, rng, taken)
    assert not set(first) & set(second)
