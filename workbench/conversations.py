"""What is asked first in a conversation, and the answer to it.

A conversation is a list of turns: mappings with `role` and `content`, or `from` and `value`; or
texts, user and assistant in turn. Where there is no such turn, what stands there instead is
returned, or None: whoever reads the row says what is wrong with it.
"""

import json
from collections.abc import Mapping
from typing import Any

USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")


def asked(cell: Any) -> Any:
    """The user's first turn, behind what the system says before it."""
    turns = _turns(cell)
    first = _first(turns)
    told = [text for role, text in turns[:first] if role == "system" and str(text or "").strip()]
    texts = [*told, *(text for _, text in turns[first : first + 1])]
    wrong = [text for text in texts if not is_text(text)]
    if wrong or first == len(turns):
        return wrong[0] if wrong else None
    return "\n\n".join(texts)


def answered(cell: Any) -> Any:
    """The assistant's turn right after the user's first."""
    turns = _turns(cell)
    answer = turns[_first(turns) + 1 :][:1]
    return answer[0][1] if answer and answer[0][0] in ASSISTANT else None


def is_text(value: Any) -> bool:
    """Whether it is text that says something and that a tokenizer can read."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False


def _turns(cell: Any) -> list[tuple[str, Any]]:
    """Role and text of each turn; a table that holds text alone has them as JSON."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    if not isinstance(cell, list | tuple):
        return []
    return [_turn(turn, place) for place, turn in enumerate(cell)]


def _turn(turn: Any, place: int) -> tuple[str, Any]:
    if isinstance(turn, Mapping):
        return str(turn.get("role", turn.get("from"))), turn.get("content", turn.get("value"))
    return ("assistant" if place % 2 else "user"), turn


def _first(turns: list[tuple[str, Any]]) -> int:
    """The user's first turn; behind the last one, if there is none."""
    return next((i for i, (role, _) in enumerate(turns) if role in USER), len(turns))
