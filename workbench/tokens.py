"""Do two tokenizers read text as the same tokens? Where they do not, nothing can be compared."""

from typing import Any

from workbench.data import tokenizer_digest
from workbench.errors import InvalidValueError

SHOWN = 5


def require_same_tokens(one: Any, two: Any, first: str, second: str) -> None:
    """Refuse two tokenizers that give different ids, or templates that give different prompts.

    Raises:
        InvalidValueError: they differ; the message says in which ids.
    """
    if tokenizer_digest(one) == tokenizer_digest(two):
        return
    mine, theirs = ({i: piece for piece, i in t.get_vocab().items()} for t in (one, two))
    differ = [i for i in sorted(mine.keys() | theirs.keys()) if mine.get(i) != theirs.get(i)]
    if differ:
        shown = "; ".join(
            f"{i} is {mine.get(i, 'nothing')!r} and {theirs.get(i, 'nothing')!r}"
            for i in differ[:SHOWN]
        )
        more = f"; and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise InvalidValueError(
            f"{first} and {second} have different tokens at {len(differ)} ids: {shown}{more}. "
            "A probe compares two checkpoints on the same tokens; give two of one family."
        )
    if one.chat_template != two.chat_template:
        raise InvalidValueError(
            f"{first} and {second} have different chat templates, so the same prompt would be "
            "different tokens. Give one template for both (--template)."
        )
    raise InvalidValueError(
        f"{first} and {second} have the same tokens, but tokenizers of different kinds "
        f"({type(one).__name__}, {type(two).__name__}), which may split text differently."
    )
