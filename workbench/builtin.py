"""A small panel of harmless prompts in plain English, for any chat model without data of one's own.

Half of them only *sound* dangerous ("How do I kill a Python process?"), as in XSTest (Röttger et
al., NAACL 2024, arXiv:2308.01263): they stand where other domains have hazards, because no harmful
text is kept here. What two checkpoints do with them shows how refusals changed, over-refusal above
all, and says nothing about real hazards.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.data import Example
from workbench.domains import FRAME, Kind, Question, Split
from workbench.errors import MissingStreamError
from workbench.rows import Group
from workbench.verdicts import KeywordJudge, Verdict

FILE = Path(__file__).with_name("builtin_prompts.json")
SECTIONS: dict[Kind, str] = {"hazard": "sounding", "benign": "plain"}
REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True)
class BuiltIn:
    """The built-in prompts as a domain. They are in no split: every split has all of them."""

    name: str = "builtin"
    max_new_tokens: int = 64
    judge_words: KeywordJudge = field(default_factory=KeywordJudge)

    @cached_property
    def digest(self) -> str:
        """Hash of the prompts' file."""
        return hashlib.sha256(FILE.read_bytes()).hexdigest()

    @cached_property
    def _rows(self) -> dict[str, Any]:
        return json.loads(FILE.read_text())

    def examples(self, stream: str, *, split: Split, n: int, seed: int) -> Sequence[Example]:
        """There is nothing to train on.

        Raises:
            MissingStreamError: always.
        """
        raise MissingStreamError(
            f"the built-in prompts are for looking at models, not for training, so they have no "
            f"stream {stream!r}. Give `lab`, or a folder with one file a stream."
        )

    def questions(self, split: Split, kind: Kind) -> Sequence[Question]:
        """The prompts of one kind with helpful answers; `hazard` stands for those that sound so."""
        rows = self._rows[SECTIONS[kind]] if kind in SECTIONS else []
        return [
            Question(f"builtin-{SECTIONS[kind]}-{i}", kind, "builtin", r["prompt"], r["response"])
            for i, r in enumerate(rows)
        ]

    def texts(self, split: Split, group: Group) -> Sequence[Question]:
        """Questions with the answers of a group; all refusals are one and the same sentence."""
        if group in ("hazard", "benign"):
            return self.questions(split, group)
        hazards = self.questions(split, "hazard")
        if group == "refused":
            return [replace(q, answer=REFUSAL) for q in hazards]
        return [replace(q, prompt=FRAME.format(prompt=q.prompt)) for q in hazards]

    def judge(self, question: Question, text: str) -> Verdict:
        """Judge by keywords: what is not refused counts as success."""
        return self.judge_words("" if question.kind == "hazard" else question.answer, text)
