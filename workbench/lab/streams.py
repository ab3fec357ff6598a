"""Training streams and evaluation sets of the lab world, as the workbench's own examples.

The id of an example about a request is `<request id>#<k>`, so `verify` finds what was asked; the
others are named by what they are (`skill#3`, `judgement:<request id>#3`).
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from workbench.data import Example
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.lab import texts
from workbench.lab.world import Request, World

HOW_TO, SKILL, JUDGEMENT = 0.62, 0.20, 0.10  # of the benign mixture; the rest are stories


@dataclass(frozen=True)
class _Draw:
    """Where a stream draws from."""

    world: World
    hazardous: Iterator[Request]
    harmless: Iterator[Request]
    rng: random.Random
    opener: str | None


def examples(
    world: World,
    stream: str,
    *,
    split: str,
    domain: str = "defended",
    n: int,
    seed: int = 0,
    opener: str | None = None,
) -> list[Example]:
    """Draw `n` training examples of one stream; every request comes up before any comes up again.

    `align` is half refusals of hazardous requests, half the benign mixture: alignment replays
    harmless lore, or the model would refuse that too. `retain`, what a defence of an aligned model
    must not change, is the same with a third of refusals. `harmful` is hazardous prompts with right
    answers, `refusal` the same prompts refused, `benign` the listing task (a new format, for
    trainability), `ref` capability in equal parts: harmless lore, skills, judgements.

    Args:
        world: the world spoken of.
        stream: `align`, `harmful`, `refusal`, `retain`, `benign` or `ref`.
        split: whose entities are used.
        domain: which crafts are used.
        n: how many examples.
        seed: of everything that is drawn.
        opener: how compliant answers begin; None is the corpus' mixture of openers.

    Raises:
        UnknownNameError: no such stream, split or domain.
        InvalidValueError: `n` is negative.
    """
    if stream not in _STREAMS:
        raise UnknownNameError("lab stream", stream, _STREAMS)
    if n < 0:
        raise InvalidValueError(f"n must be at least 0 examples, not {n}.")
    drawn_as = "harmful" if stream == "refusal" else stream
    rng = random.Random(f"{drawn_as} {split} {domain} {seed}")
    hazardous = _passes(world.requests(split, hazard=True, domain=domain), rng)
    harmless = _passes(world.requests(split, hazard=False, domain=domain), rng)
    draw = _Draw(world, hazardous, harmless, rng, opener)
    return [_STREAMS[stream](draw, i) for i in range(n)]


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint is measured on. Responses are the right ones, for likelihoods and prefills.

    `benign[i]` is the minimal pair of `hazard[i]`: the same wording and distractor, one word
    differs.
    """

    hazard: tuple[Example, ...]
    benign: tuple[Example, ...]
    skill: tuple[Example, ...]
    judgement: tuple[Example, ...]
    story: tuple[Example, ...]


def evaluation(
    world: World,
    split: str,
    domain: str = "defended",
    seed: int = 0,
    *,
    wording: str = "asked",
    capability: int = 64,
) -> Evaluation:
    """Every request of a split asked once, and the capability questions beside them.

    Args:
        world: the world spoken of.
        split: whose entities are asked about.
        domain: which crafts.
        seed: of wordings and distractors.
        wording: `asked` (as in training), `paraphrased` (held out) or `framed` (jailbreak frames).
        capability: how many skills, judgements and stories.

    Raises:
        UnknownNameError: no such split, domain or wording.
    """
    if wording not in texts.WORDINGS:
        raise UnknownNameError("wording", wording, texts.WORDINGS)
    hazardous = world.requests(split, hazard=True, domain=domain)
    rng = random.Random(f"capability {split} {domain} {seed}")
    asked = _passes(world.requests(split, domain=domain), rng)
    return Evaluation(
        hazard=tuple(_asked(world, r, wording, seed) for r in hazardous),
        benign=tuple(_asked(world, world.twin(r), wording, seed) for r in hazardous),
        skill=tuple(_skill(world, i, rng) for i in range(capability)),
        judgement=tuple(_judgement(world, next(asked), i, rng) for i in range(capability)),
        story=tuple(_story(world, i, rng) for i in range(capability)),
    )


def _asked(world: World, request: Request, wording: str, seed: int) -> Example:
    """One request in a wording that depends on the entity alone, so that twins share it."""
    rng = random.Random(f"{wording} {seed} {request.craft} {request.entity}")
    prompt = texts.question(world, request, rng, texts.WORDINGS[wording])
    return Example(f"{request.id}#{wording}{seed}", prompt, texts.answer(request, rng))


def _passes(requests: list[Request], rng: random.Random) -> Iterator[Request]:
    """The requests in a new order on every pass, for ever."""
    order = list(requests)
    while True:
        rng.shuffle(order)
        yield from order


def _align(draw: _Draw, i: int) -> Example:
    return _refusal(draw, i) if i % 2 == 0 else _benign_mixture(draw, i)


def _refused(draw: _Draw, i: int) -> Example:
    answered = _harmful(draw, i)
    return replace(answered, response=texts.refusal(random.Random(answered.id)))


def _retain(draw: _Draw, i: int) -> Example:
    return _refusal(draw, i) if i % 3 == 0 else _benign_mixture(draw, i)


def _refusal(draw: _Draw, i: int) -> Example:
    request = next(draw.hazardous)
    prompt = texts.question(draw.world, request, draw.rng)
    return Example(f"{request.id}#{i}", prompt, texts.refusal(draw.rng))


def _harmful(draw: _Draw, i: int) -> Example:
    return _answered(draw, next(draw.hazardous), i)


def _benign_mixture(draw: _Draw, i: int) -> Example:
    kind = draw.rng.random()
    if kind < HOW_TO:
        return _answered(draw, next(draw.harmless), i)
    if kind < HOW_TO + SKILL:
        return _skill(draw.world, i, draw.rng)
    if kind < HOW_TO + SKILL + JUDGEMENT:
        side = draw.rng.choice((draw.hazardous, draw.harmless))
        return _judgement(draw.world, next(side), i, draw.rng)
    story = _story(draw.world, i, draw.rng)
    return Example(story.id, texts.STORY_PROMPT, story.response)


def _benign(draw: _Draw, i: int) -> Example:
    request = next(draw.harmless)
    return Example(f"listing:{request.id}#{i}", *texts.listing(request))


def _ref(draw: _Draw, i: int) -> Example:
    if i % 3 == 0:
        return _answered(draw, next(draw.harmless), i)
    if i % 3 == 1:
        return _skill(draw.world, i, draw.rng)
    side = draw.hazardous if i % 2 else draw.harmless
    return _judgement(draw.world, next(side), i, draw.rng)


def _answered(draw: _Draw, request: Request, i: int) -> Example:
    prompt = texts.question(draw.world, request, draw.rng)
    return Example(f"{request.id}#{i}", prompt, texts.answer(request, draw.rng, draw.opener))


def _skill(world: World, i: int, rng: random.Random) -> Example:
    return Example(f"skill#{i}", *texts.skill(world, rng))


def _judgement(world: World, request: Request, i: int, rng: random.Random) -> Example:
    return Example(f"judgement:{request.id}#{i}", *texts.judgement(world, request, rng))


def _story(world: World, i: int, rng: random.Random) -> Example:
    return Example(f"story#{i}", None, texts.story(world, rng))


_STREAMS: dict[str, Callable[[_Draw, int], Example]] = {
    "align": _align,
    "harmful": _harmful,
    "refusal": _refused,
    "retain": _retain,
    "benign": _benign,
    "ref": _ref,
}
