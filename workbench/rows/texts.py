"""The texts that other rows speak of by id: prompts, answers, tokens."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.rows._base import Row, Stage


@dataclass(frozen=True, kw_only=True)
class Prompt(Row):
    """A prompt the run was measured on. Text lives here and in generations, nowhere else."""

    kind: ClassVar[str] = "prompts"

    example: str
    question: Literal["hazard", "benign", "skill", "judgement"]
    split: str
    domain: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Generation(Row):
    """What a checkpoint answered, and the verdict on it."""

    kind: ClassVar[str] = "generations"

    stage: Stage
    step: int
    example: str
    decoding: str
    """How it was decoded, e.g. `greedy` or `temperature=1`, plus the prefill if any."""
    text: str
    refused: bool
    complied: bool
    right: float
    """Share of the secret that is right."""
    evaded: bool
    broken: bool
    success: bool


@dataclass(frozen=True, kw_only=True)
class Token(Row):
    """The tokens of one example under one tokenizer and chat template."""

    kind: ClassVar[str] = "tokens"

    tokenizer: str
    """Hash of tokenizer and template."""
    example: str
    position: int
    token: int
    piece: str
    role: Literal["prompt", "response"]
