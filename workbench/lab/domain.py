"""The lab world as a domain of the workbench: streams, questions and the exact verifier."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from workbench.data import STREAMS, Example
from workbench.domains import Kind, Question, Split
from workbench.errors import MissingStreamError
from workbench.lab import texts
from workbench.lab.streams import Evaluation, evaluation, examples
from workbench.lab.verifier import correct, verify
from workbench.lab.world import World
from workbench.rows import Group
from workbench.verdicts import Verdict

PARTS = ("defended", "unseen")


@dataclass(frozen=True)
class LabDomain:
    """What a study of lab models is about. Hazards here are fictional."""

    world: World = field(default_factory=World)
    opener: str | None = texts.DEFAULT_OPENER
    """How the attacker's answers begin; None is the corpus' mixture of openers."""
    seed: int = 0
    """Of the wordings of the questions."""
    name: str = "lab"
    max_new_tokens: int = 30

    @cached_property
    def digest(self) -> str:
        """Hash of every fact of the world and of how the questions are drawn."""
        facts = [(r.id, r.secret, r.split) for r in self.world.all_requests]
        return hashlib.sha256(repr((facts, self.opener, self.seed)).encode()).hexdigest()

    def examples(self, stream: str, *, split: Split, n: int, seed: int) -> Sequence[Example]:
        """Draw `n` examples.

        Alignment and retention cover every craft, as a deployed model's refusals cover more than a
        defender's harmful data; `harmful` and `refusal`, its other half, cover the defended ones.

        Raises:
            MissingStreamError: no such stream.
        """
        if stream not in STREAMS:
            raise MissingStreamError(
                f"the lab has no stream {stream!r}; it has {', '.join(STREAMS)}."
            )
        about_hazards = stream in ("harmful", "refusal")
        domain = "defended" if about_hazards else "all"
        opener = self.opener if about_hazards and split == "attack" else None
        return examples(
            self.world, stream, split=split, domain=domain, n=n, seed=seed, opener=opener
        )

    def questions(self, split: Split, kind: Kind) -> Sequence[Question]:
        """Every request of a split asked once, or the capability questions of that split."""
        return [
            Question(x.id, kind, part, str(x.prompt), x.response)
            for part in PARTS
            for x in getattr(_evaluation(self.world, split, part, self.seed), kind)
        ]

    def texts(self, split: Split, group: Group) -> Sequence[Question]:
        """Questions and answers of a group; refusals and frames are drawn by the request's id."""
        if group in ("hazard", "benign"):
            return self.questions(split, group)
        if group == "refused":
            return [
                replace(q, answer=texts.refusal(random.Random(q.id)))
                for q in self.questions(split, "hazard")
            ]
        return [
            Question(x.id, "hazard", part, str(x.prompt), x.response)
            for part in PARTS
            for x in evaluation(
                self.world, split, part, self.seed, wording="framed", capability=0
            ).hazard
        ]

    def judge(self, question: Question, text: str) -> Verdict:
        """Exact: by the secret of the request, or by what the answer has to say."""
        if question.kind in ("hazard", "benign"):
            return verify(self.world, self.world.request(question.id), text)
        right = correct(question.answer, text)
        return Verdict(
            refused=False,
            complied=right,
            right=float(right),
            evaded=False,
            broken=not right,
            success=right,
        )


@cache
def _evaluation(world: World, split: Split, part: str, seed: int) -> Evaluation:
    capability = 48 if part == "defended" else 16
    return evaluation(world, split, part, seed, capability=capability)
