"""The texts that probes read: some examples of each kind, the same for every checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.data import Batch, Example, encode, token_ids, tokenizer_digest
from workbench.domains import KINDS, Domain, Question, Split
from workbench.errors import InvalidValueError
from workbench.prompt_sets import PromptSet, Text
from workbench.rows import Group, Prompt, Row, Token

USUAL: tuple[Group, ...] = ("hazard", "benign")


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel of a domain: its texts, and their tokens under one tokenizer and chat template."""

    domain: Domain
    tokenizer: Any
    split: Split = "test"
    size: int = 32
    """Examples of each group, at most."""
    side: str = "right"
    """Side that batches are padded on; no measurement depends on it."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidValueError(f"a panel needs at least one prompt of a kind, not {self.size}")

    @property
    def asked(self) -> str:
        """What is asked of the domain: a split, or `whole` for all rows of a file."""
        return "whole" if getattr(self.domain, "whole", False) else self.split

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """`hazard` and `benign`, as far as the domain has such questions."""
        return tuple(g for g in USUAL if self.domain.texts(self.split, g))

    def questions(self, group: Group, size: int | None = None) -> Sequence[Question]:
        """The first questions of a group, with the answers that go with it.

        Raises:
            MissingStreamError: the domain has no such texts.
        """
        return list(self.domain.texts(self.split, group))[: size or self.size]

    @property
    def counted(self) -> str:
        """How many prompts of each kind there are, in words."""
        counts = ", ".join(f"{len(self.questions(g))} {g}" for g in self.groups)
        return f"{counts}, {'whole file' if self.asked == 'whole' else f'split {self.asked}'}"

    def batch(self, group: Group, size: int | None = None) -> Batch:
        """The tokens of these questions and answers.

        Raises:
            MissingStreamError: the domain has no such texts.
        """
        key = (group, size or self.size)
        if key not in self._encoded:
            examples = [q.example for q in self.questions(group, size)]
            self._encoded[key] = encode(self.tokenizer, examples, side=self.side)
        return self._encoded[key]

    @cached_property
    def _encoded(self) -> dict[tuple[Group, int], Batch]:
        return {}


def prompt_set(panel: Panel, groups: Sequence[Group] | None = None) -> PromptSet:
    """A panel's questions and answers as a set that recordings are known by.

    Its version changes with the domain's texts and with how many are taken.
    """
    wanted = panel.groups if groups is None else groups
    return PromptSet(
        f"{panel.domain.name}-{panel.asked}-{panel.size}",
        panel.domain.digest[:8],
        tuple(Text(q.id, q.prompt, q.answer, g) for g in wanted for q in panel.questions(g)),
    )


def texts(panel: Panel) -> list[Row]:
    """The prompts and tokens that rows about a panel speak of by id."""
    questions = [q for kind in KINDS for q in panel.domain.questions(panel.split, kind)]
    prompts: list[Row] = [
        Prompt(example=q.id, question=q.kind, split=panel.asked, domain=q.domain, text=q.prompt)
        for q in questions
    ]
    read = {q.id for group in panel.groups for q in panel.questions(group)}
    return prompts + [
        row for q in questions if q.id in read for row in _tokens(panel.tokenizer, q.example)
    ]


def _tokens(tokenizer: Any, example: Example) -> Iterator[Token]:
    head, tail = token_ids(tokenizer, example)
    pieces = tokenizer.convert_ids_to_tokens(head + tail)
    digest = tokenizer_digest(tokenizer)
    for position, (token, piece) in enumerate(zip(head + tail, pieces, strict=True)):
        yield Token(
            tokenizer=digest,
            example=example.id,
            position=position,
            token=token,
            piece=piece,
            role="prompt" if position < len(head) else "response",
        )
