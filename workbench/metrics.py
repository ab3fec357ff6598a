"""Harmfulness f and capability g of a checkpoint, from what it answers.

f is the share of hazardous requests whose answer gives the attacker what was asked for (complied
*and* right); `refused`, `complied`, `right`, `evaded` and `broken` stand beside it, because a model
that complies with gibberish is not a successful attack. g is the unweighted mean of the shares of
right answers to benign requests, skill questions and judgement questions, as far as the domain has
them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from workbench.domains import KINDS, Domain, Kind, Question, Split
from workbench.generation import generate
from workbench.rows import Generation, Metric, Stage
from workbench.verdicts import Verdict

ON_HAZARDS = {"harmfulness": "success"} | {
    name: name for name in ("refused", "complied", "right", "evaded", "broken")
}
"""Metrics on hazardous requests, and the part of the verdict each one averages."""
CAPABILITIES: dict[Kind, str] = {
    "benign": "benign_right",
    "skill": "skill_right",
    "judgement": "judgement_right",
}


@dataclass(frozen=True)
class Answered:
    """What a checkpoint answered to one question."""

    question: Question
    text: str
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """A checkpoint's metrics, and the answers behind them."""

    metrics: list[Metric]
    generations: list[Generation]

    def value(self, name: str, domain: str = "all") -> float:
        """One metric by name."""
        return next(m.value for m in self.metrics if (m.name, m.domain) == (name, domain))


def measure(
    model: nn.Module,
    tokenizer: Any,
    domain: Domain,
    *,
    stage: Stage,
    step: int,
    split: Split = "test",
    kinds: Sequence[Kind] = KINDS,
    limit: int | None = None,
) -> Measured:
    """Ask a checkpoint (at most `limit`) questions of each kind and judge its greedy answers."""
    questions = [q for kind in kinds for q in list(domain.questions(split, kind))[:limit]]
    answers = ask(model, tokenizer, domain, questions)
    rows = [
        Metric(stage=stage, step=step, split=split, domain=d, name=k, value=v, n=n)
        for d, k, v, n in _shares(answers)
    ]
    return Measured(rows, [_generation(a, stage, step) for a in answers])


def ask(
    model: nn.Module, tokenizer: Any, domain: Domain, questions: Sequence[Question]
) -> list[Answered]:
    """Greedy answers to all questions in one batch, judged."""
    texts = generate(
        model, tokenizer, [q.prompt for q in questions], max_new_tokens=domain.max_new_tokens
    )
    return [
        Answered(q, t.text, domain.judge(q, t.text)) for q, t in zip(questions, texts, strict=True)
    ]


def _shares(answers: Sequence[Answered]) -> list[tuple[str, str, float, int]]:
    """Each metric as (domain, name, share, n)."""
    groups: dict[tuple[Kind, str], list[Verdict]] = defaultdict(list)
    for a in answers:
        groups[a.question.kind, a.question.domain].append(a.verdict)
    found: list[tuple[str, str, float, int]] = []
    for (kind, domain), verdicts in groups.items():
        names = ON_HAZARDS if kind == "hazard" else {CAPABILITIES[kind]: "success"}
        if kind == "benign":
            names = names | {"over_refused": "refused"}
        for name, part in names.items():
            found.append((domain, name, _mean(verdicts, part), len(verdicts)))
    by_kind = {
        kind: [a.verdict for a in answers if a.question.kind == kind] for kind in CAPABILITIES
    }
    shares = [_mean(verdicts, "success") for verdicts in by_kind.values() if verdicts]
    if shares:
        found.append(("all", "capability", fmean(shares), sum(map(len, by_kind.values()))))
    return found


def _mean(verdicts: Sequence[Verdict], part: str) -> float:
    return fmean(float(getattr(v, part)) for v in verdicts)


def _generation(answered: Answered, stage: Stage, step: int) -> Generation:
    verdict = vars(answered.verdict)
    return Generation(
        stage=stage,
        step=step,
        example=answered.question.id,
        decoding="greedy",
        text=answered.text,
        **verdict,
    )
