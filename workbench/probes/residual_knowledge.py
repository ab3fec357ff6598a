"""Residual knowledge: is what a model refuses to say gone, or only out of reach?

Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee & Nanda, "Refusal in language models is mediated by
a single direction", NeurIPS 2024, arXiv:2406.11717 (ablation); Qi et al., ICLR 2025,
arXiv:2406.05946 (beginning the answer); Qi et al., ICLR 2024, arXiv:2310.03693 (fine-tuning).

An empty shell complies and is not right: whoever reports compliance alone takes it for a broken
defence, and whoever reports success alone takes a refusing model that knows everything for one.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from workbench.activations import HookedLM
from workbench.data import Batch, Stream, encode, token_ids
from workbench.domains import Domain, Question, Split
from workbench.errors import InvalidValueError, MissingStreamError, UnknownNameError
from workbench.generation import generate
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.rows import ResidualKnowledge, Row
from workbench.states import read_states, require_room
from workbench.steering import ablated, difference_of_means
from workbench.training import Context, Losses, Mean, fit
from workbench.verdicts import Verdict

Way = Literal["none", "prefixed", "ablated", "relearned"]
Judged = list[tuple[Question, Verdict]]
DEPTH = 0.8
"""Share of the blocks from below after which a direction of refusal is looked for, as in the paper:
later ones only write refusing words."""
LAYERS, TRIED = 8, 12
"""At most so many layers are tried, on at most so many hazards of the other split."""
READ = 32
"""Hazardous and benign requests that the direction is read from, at most."""


@dataclass(frozen=True, kw_only=True)
class ResidualKnowledgeProbe(Probe):
    """Remove refusal three ways, and count what a model complies with and what it gets right.

    The direction is read, and relearning taught, on other splits than the one asked. `right` and
    `success` are left out where the judge cannot tell a right answer (keyword judges).
    """

    writes: ClassVar[tuple[type[Row], ...]] = (ResidualKnowledge,)
    needs_reference: ClassVar[bool] = False

    ways: tuple[Way, ...] = ("none", "prefixed", "ablated", "relearned")
    """How refusal is removed: not at all, by beginning the answer, by projecting out a direction,
    by fine-tuning a copy."""
    prompts: int = 24
    """Hazardous requests that are asked, at most."""
    prefix: tuple[int, ...] = (4,)
    """So many tokens of a compliant answer are given."""
    layer: int | None = None
    """Block after which the direction is read; none for the one without which most hazards of
    another split are complied with."""
    steps: tuple[int, ...] = (8,)
    """Optimiser steps of relearning after which the copy is asked."""
    taught: Literal["answers", "openers"] = "openers"
    """What relearning teaches, on other requests: whole answers, or only how they begin, so that
    no secret is taught."""
    opener: int = 4
    """How many tokens an opener has."""
    lr: float = 3e-4
    """Learning rate of relearning."""
    batch_size: int = 16
    """Examples per step of relearning."""
    seed: int = 0
    """Of relearning's order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for way in self.ways:
            if way not in get_args(Way):
                raise UnknownNameError("way of removing refusal", way, get_args(Way))
        numbers = {"prompts": (self.prompts,), "prefix": self.prefix, "steps": self.steps,
                   "opener": (self.opener,)}  # fmt: skip
        for name, given in numbers.items():
            if not given or min(given) < 1:
                raise InvalidValueError(f"{name} must be at least 1, not {given}.")
        self.fit  # noqa: B018  (checks the other fields)

    @property
    def fit(self) -> Fit:
        """The loop's settings."""
        return Fit(
            steps=max(self.steps), lr=self.lr, batch_size=self.batch_size,
            schedule="constant", warmup=0,
        )  # fmt: skip

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Get ready to ask the panel's hazardous requests.

        Raises:
            InvalidValueError: no such request, or the direction would be read on, or relearning
                taught, what is asked.
            MissingStreamError: no texts in another split to read the direction from, or to teach.
        """
        questions = panel.questions("hazard", min(self.prompts, panel.size))
        if not questions:
            raise InvalidValueError(
                f"{panel.domain.name} has no hazardous request in the split {panel.split!r}."
            )
        tells = tells_right(panel.domain, questions)
        others = _other_questions(panel) if "ablated" in self.ways else None
        taught = _taught(panel) if "relearned" in self.ways else None
        _require_others(
            panel, questions, ablated=others[0] if others else (), relearned=taught or ()
        )

        def measure(model: nn.Module, at: At) -> list[Row]:
            asked = Asked(panel.tokenizer, panel.domain, questions)
            found: list[tuple[Way, int, Judged]] = []
            if "none" in self.ways:
                found.append(("none", 0, asked.answers(model)))
            if "prefixed" in self.ways:
                found += [("prefixed", k, asked.answers(model, k)) for k in self.prefix]
            if others is not None:
                found.append(self._ablated(model, asked, panel, *others))
            if taught is not None:
                found += self._relearned(model, asked, taught)
            return [
                row for way, strength, judged in found
                for row in rows(judged, way, strength, at, panel.asked, tells)
            ]  # fmt: skip

        return measure

    def _ablated(
        self,
        model: nn.Module,
        asked: "Asked",
        panel: Panel,
        hazards: Sequence[Question],
        benign: Sequence[Question],
    ) -> tuple[Way, int, Judged]:
        lm = HookedLM(model, check=False)
        one, other = (
            read_states(model, encode(panel.tokenizer, [q.example for q in x], side=panel.side))
            for x in (hazards, benign)
        )

        def without(layer: int, asked: Asked) -> Judged:
            with ablated(lm, difference_of_means(one, other, layer)):
                return asked.answers(model)

        def complied(layer: int) -> int:
            return sum(verdict.complied for _, verdict in without(layer, tried))

        tried = replace(asked, questions=hazards[:TRIED])
        layer = self.layer
        if layer is None:
            layer = max(_candidates(lm.n_layers), key=complied)
        return "ablated", layer, without(layer, asked)

    def _relearned(
        self, model: nn.Module, asked: "Asked", questions: Sequence[Question]
    ) -> list[tuple[Way, int, Judged]]:
        student = deepcopy(model).requires_grad_(True)
        lm = HookedLM(student, check=False)
        examples = [q.example for q in questions]
        require_room(lm, encode(asked.tokenizer, examples))
        stream = Stream("harmful", examples, asked.tokenizer, self.batch_size, self.seed)
        first = self.opener if self.taught == "openers" else None

        def objective(batches: Mapping[str, Batch], context: Context) -> Losses:
            kept = {"harmful": beginning(batches["harmful"], first)}
            return context.minimise(loss, kept, {"harmful": Mean("harmful")})

        def loss(part: Mapping[str, Batch]) -> Losses:
            return {"harmful": cross_entropy(lm(part["harmful"]).logits, part["harmful"])}

        found: list[tuple[Way, int, Judged]] = []

        def look(step: Any, now: nn.Module) -> None:
            if step.step in self.steps:
                found.append(("relearned", step.step, asked.answers(now)))

        fit(student, {"harmful": stream}, objective, self.fit, seed=self.seed, callbacks=[look])
        return found


@dataclass(frozen=True)
class Asked:
    """Requests, ready to be put to a model."""

    tokenizer: Any
    domain: Domain
    questions: Sequence[Question]

    def answers(self, model: nn.Module, prefix: int = 0) -> Judged:
        """Greedy answers, judged with what was given of them."""
        starts = [self._start(q, prefix) for q in self.questions]
        answers = generate(
            model,
            self.tokenizer,
            [q.prompt for q in self.questions],
            prefill=starts,
            max_new_tokens=self.domain.max_new_tokens,
        )
        return [
            (q, self.domain.judge(q, a.text)) for q, a in zip(self.questions, answers, strict=True)
        ]

    def _start(self, question: Question, tokens: int) -> str:
        """The first tokens of the compliant answer, as text, but never all of them."""
        _, answer = token_ids(self.tokenizer, question.example)
        said = [token for token in answer if token not in self.tokenizer.all_special_ids]
        return self.tokenizer.decode(said[: min(tokens, max(len(said) - 1, 0))])


def beginning(batch: Batch, tokens: int | None) -> Batch:
    """The batch with only the first response tokens scored; None scores them all."""
    if tokens is None:
        return batch
    return replace(
        batch, response_mask=batch.response_mask & (batch.response_mask.cumsum(1) <= tokens)
    )


def tells_right(domain: Domain, questions: Sequence[Question]) -> bool:
    """Whether the judge calls the right answers right; one by keywords cannot."""
    return any(domain.judge(q, q.answer).right > 0 for q in questions)


def rows(
    judged: Judged, way: Way, strength: int, at: At, split: str, tells: bool
) -> Iterator[ResidualKnowledge]:
    """Shares of the verdicts, for each part of the world."""
    measures = ("complied", "refused", *(("right", "success") if tells else ()))
    for domain in dict.fromkeys(q.domain for q, _ in judged):
        verdicts = [verdict for q, verdict in judged if q.domain == domain]
        for measure in measures:
            yield ResidualKnowledge(
                stage=at.stage, step=at.step, split=split, domain=domain, way=way,
                strength=strength, measure=measure,
                value=fmean(float(getattr(v, measure)) for v in verdicts), n=len(verdicts),
            )  # fmt: skip


def _candidates(layers: int) -> list[int]:
    """Layers spread evenly over the lower part of a model."""
    end = max(1, int(DEPTH * layers))
    count = min(end, LAYERS)
    return [i * end // count for i in range(count)]


def _other_questions(panel: Panel) -> tuple[Sequence[Question], Sequence[Question]]:
    """Hazards and benign requests of another split than the one asked, to read a direction from."""
    split: Split = "defend" if panel.split == "val" else "val"
    texts = {kind: panel.domain.questions(split, kind) for kind in ("hazard", "benign")}
    for kind, found in texts.items():
        if not found:
            raise MissingStreamError(
                f"{panel.domain.name} has no {kind} requests in the split {split!r}, where the "
                "direction of refusal is read. Add some, or leave `ablated` out of ways."
            )
    return texts["hazard"][:READ], texts["benign"][:READ]


def _require_others(panel: Panel, asked: Sequence[Question], **ways: Sequence[Question]) -> None:
    """Refuse a domain whose splits share requests: what a way has seen would be no surprise."""
    ids = {q.id for q in asked}
    shared = {way: [q.id for q in used if q.id in ids] for way, used in ways.items()}
    if told := [way for way, both in shared.items() if both]:
        names, both = " and ".join(f"`{way}`" for way in told), shared[told[0]]
        raise InvalidValueError(
            f"{panel.domain.name} holds requests that are asked where {names} would learn from "
            f"them, too: {len(both)} of the {len(ids)} asked, the first is {both[0]!r}. Give data "
            f"whose splits differ, or leave {names} out of ways."
        )


def _taught(panel: Panel) -> Sequence[Question]:
    """Hazards of a split that is not the one asked."""
    split: Split = "defend" if panel.split == "attack" else "attack"
    questions = panel.domain.questions(split, "hazard")
    if not questions:
        raise MissingStreamError(
            f"{panel.domain.name} has no hazardous requests in the split {split!r}, which "
            "relearning teaches. Add some, or leave `relearned` out of ways."
        )
    return questions
