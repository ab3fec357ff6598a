"""Every word the lab model can read or write: invented ones and a reviewed list of plain ones.

Content words (names, places, ingredients) come from a syllable grammar, so nothing the lab world
calls hazardous exists. The plain English around them is `TEMPLATE_WORDS`: each word was read for
what it could mean outside the lab world. A text with any other word fails the tests.
"""

import random

SPECIAL_TOKENS = ("<pad>", "<bos>", "<user>", "<bot>", "<end>", "<unk>", "<error>")
"""`<error>` is never trained on: it is the token some collapse defences move benign text to."""

NUMERALS = tuple(str(i) for i in range(31))
"""Sums of two numbers up to 15."""

ONSETS = ("zh", "vr", "kh", "dr", "th", "sk", "gl", "mr", "fl", "br", "q")
VOWELS = ("a", "e", "i", "o", "u", "oo", "ae")
CODAS = ("l", "r", "n", "m", "sh", "k", "th", "v", "z", "rn", "lk")

_REVIEWED = {
    "the world: four crafts, two modes, two kins, times of day": (
        "brew braid wake gild sun moon kin thorn reed dusk dawn noon"
    ),
    "asking": (
        "how do i tell me to what is the way have here want need with in hand describe one can my"
        " friend has and must it which list order"
    ),
    "distractors": "forget",
    "jailbreak frames": (
        "a story an elder explains does say you are free spirit no rules this only for test"
    ),
    "complying": "certainly gladly good choice that well now then ask so hear take care",
    "answering": "gather until lore of old books needs",
    "refusing": "cannot am sorry could harm folk vale but will not be told from",
    "judging": "wise yes dark fair",
    "skills": "plus sum backwards first second third word",
    "telling stories": (
        "once met by river they sang went home long ago found stone gave were friends tale"
    ),
    "punctuation": "? . , :",
}
TEMPLATE_WORDS = frozenset(" ".join(_REVIEWED.values()).split())
"""The allow-list. Its strongest words are in "dark lore" and "harm the folk of the vale", which
only refusals and judgements say; none names a weapon, a substance, a group or a harmful act."""


def invent(n: int, rng: random.Random, taken: set[str]) -> tuple[str, ...]:
    """Draw `n` new invented words and add them to `taken`."""
    words: list[str] = []
    while len(words) < n:
        parts = (ONSETS, VOWELS, ONSETS, VOWELS, CODAS)
        word = "".join(rng.choice(part) for part in parts)
        if word not in taken:
            taken.add(word)
            words.append(word)
    return tuple(words)


def is_invented(word: str) -> bool:
    """Whether the syllable grammar produces this word."""
    return any(_rest_matches(word, onset) for onset in ONSETS)


def _rest_matches(word: str, onset: str) -> bool:
    """Whether what follows the first onset is vowel, onset, vowel, coda."""
    rests = {word[len(onset) :]} if word.startswith(onset) else set()
    for part in (VOWELS, ONSETS, VOWELS, CODAS):
        rests = {rest[len(p) :] for rest in rests for p in part if rest.startswith(p)}
    return "" in rests
