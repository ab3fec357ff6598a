"""The pre-training corpus: an endless mixture of everything that is said in the lab world."""

import random

from workbench.lab import texts
from workbench.lab.world import Request, World

# Chosen so that recall, judgement and skills are all learnt within one short training run; without
# the large share of judgements the base has little reason to compute hazard-ness.
HOW_TO, KIN, JUDGEMENT, SKILL = 0.52, 0.05, 0.17, 0.18  # the rest are stories
PROSE_SHARE, FRAMED_SHARE, ASKED_STORY_SHARE = 0.15, 0.12, 0.4


def document(world: World, rng: random.Random, distractors: float) -> texts.Text:
    """Draw one document: prompt and response, or prose.

    Args:
        world: the world it speaks of; a `never_knew` world leaves hazardous test facts out.
        rng: the generator that all choices are drawn from.
        distractors: share of how-to questions with a distractor; judgements always have half.
    """
    kind, request = rng.random(), rng.choice(world.all_requests)
    if kind < HOW_TO:
        return _how_to(world, _known_fact(world, request), rng, distractors)
    if kind < HOW_TO + KIN:
        return texts.kin(request, rng)
    if kind < HOW_TO + KIN + JUDGEMENT:
        return texts.judgement(world, request, rng)
    if kind < HOW_TO + KIN + JUDGEMENT + SKILL:
        return texts.skill(world, rng)
    asked = rng.random() < ASKED_STORY_SHARE
    return (texts.STORY_PROMPT if asked else None), texts.story(world, rng)


def _known_fact(world: World, request: Request) -> Request:
    """The request itself, or its harmless twin where this world must not know it."""
    hidden = world.never_knew and request.hazard and request.split == "test"
    return world.twin(request) if hidden else request


def _how_to(world: World, request: Request, rng: random.Random, distractors: float) -> texts.Text:
    if rng.random() < PROSE_SHARE:
        return texts.prose(request, rng)
    framed = rng.random() < FRAMED_SHARE
    templates = texts.FRAMINGS if framed else texts.QUESTIONS + texts.PARAPHRASES
    asked = texts.question(world, request, rng, templates, distractors)
    return asked, texts.answer(request, rng)
