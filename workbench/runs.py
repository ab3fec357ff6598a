"""One run, made: immunise an arm, or attack one, measuring and recording while it happens."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from workbench.attacks._base import Attack, Attacked
from workbench.data import Batch, Example, encode, token_ids, tokenizer_digest
from workbench.defences._base import Defence
from workbench.domains import KINDS, Domain, streams
from workbench.measures import Measures
from workbench.metrics import Measured, measure
from workbench.models import Loaded, save
from workbench.prefill import prefill_curve
from workbench.probes import At, embedding_drift, token_kl
from workbench.recording import Recorder
from workbench.resume import Checkpoint
from workbench.rows import Cost, Group, Loss, Prompt, Row, Stage, Token
from workbench.store import ACTIVATIONS, CHECKPOINT, RunWriter
from workbench.training import Step

GROUPS: tuple[Group, ...] = ("hazard", "benign")
MODEL = "model"
PROBED_SITES = ("resid_post", "attn_module_out")


@dataclass
class Run:
    """What every run needs: where it writes, what it measures, and on which prompts."""

    writer: RunWriter
    domain: Domain
    measures: Measures
    tokenizer: Any
    stage: Stage

    def __post_init__(self) -> None:
        split, size = self.measures.split, self.measures.panel
        self.panel: dict[Group, Batch] = {
            group: encode(self.tokenizer, [q.example for q in questions[:size]])
            for group in GROUPS
            if (questions := list(self.domain.questions(split, group)))
        }

    def measure(self, model: nn.Module, step: int) -> Measured:
        """Write f and g of a checkpoint, and the answers behind them."""
        m = self.measures
        found = measure(model, self.tokenizer, self.domain, stage=self.stage, step=step,
                        split=m.split, limit=m.limit)  # fmt: skip
        self.writer.append([*found.metrics, *found.generations])
        return found

    def prefill(self, model: nn.Module, step: int) -> None:
        """Write the prefill curve of a checkpoint, if it is to be measured."""
        m = self.measures
        if m.prefill:
            self.writer.append(
                prefill_curve(
                    model,
                    self.tokenizer,
                    self.domain,
                    most=m.prefill,
                    stage=self.stage,
                    step=step,
                    split=m.split,
                    limit=m.limit,
                )
            )

    def probe(self, model: nn.Module, reference: nn.Module, name: str, step: int) -> None:
        """Write KL and drift of a checkpoint against a reference, on hazards and on benign text."""
        for group, batch in self.panel.items():
            at = At(self.stage, step, name, group)
            self.writer.append(token_kl(model, reference, batch, at))
            for site in PROBED_SITES:
                self.writer.append(embedding_drift(model, reference, batch, at, site=site))

    def texts(self) -> list[Row]:
        """The prompts and tokens that the run's rows speak of by id."""
        split = self.measures.split
        questions = [q for kind in KINDS for q in self.domain.questions(split, kind)]
        prompts: list[Row] = [
            Prompt(example=q.id, question=q.kind, split=split, domain=q.domain, text=q.prompt)
            for q in questions
        ]
        panel = {example for batch in self.panel.values() for example in batch.examples}
        return prompts + [
            row for q in questions if q.id in panel for row in self._tokens(q.example)
        ]

    def _tokens(self, example: Example) -> Iterator[Token]:
        head, tail = token_ids(self.tokenizer, example)
        pieces = self.tokenizer.convert_ids_to_tokens(head + tail)
        digest = tokenizer_digest(self.tokenizer)
        for position, (token, piece) in enumerate(zip(head + tail, pieces, strict=True)):
            yield Token(
                tokenizer=digest,
                example=example.id,
                position=position,
                token=token,
                piece=piece,
                role="prompt" if position < len(head) else "response",
            )

    def recorder(self, budget: int) -> Recorder | None:
        """Keeps the panel's activations in the run folder; None if nothing is to be recorded.

        A run that is made again passes through the same weights: steps on disk are kept.
        """
        if not (self.panel and self.measures.record_sites):
            return None
        return Recorder(
            self.writer.path(ACTIVATIONS),
            list(self.panel.values()),
            self.measures.record_sites,
            at=self.measures.record_steps(budget),
            model=self.writer.header.hashes["start"],
            tokenizer=tokenizer_digest(self.tokenizer),
            resume=True,
        )


@dataclass
class MicroBatches:
    """Notes in a run's events how many examples went through the model at a time."""

    writer: RunWriter
    noted: int = 0

    def note(self, step: int, size: int) -> None:
        """Called at every optimiser step; says something at the first, and when memory ran out."""
        if step > 0 and size != self.noted:
            self.writer.event({"event": "micro_batch", "step": step, "examples": size})
            self.noted = size


def immunise_run(
    run: Run,
    start: Loaded,
    defence: Defence | None,
    seed: int,
    *,
    reference: Loaded | None,
    progress: Callable[[int, int], None],
    fingerprint: str,
) -> None:
    """Immunise a model (or leave it, for the undefended arm), measure it and keep its weights."""
    model, steps = start.model, 0
    if defence is not None:
        steps = defence.steps
        model = _immunise(run, start, defence, seed, progress, fingerprint)
        save(model, start.tokenizer, run.writer.path(MODEL))
    run.writer.append(run.texts())
    run.measure(model, steps)
    run.prefill(model, steps)
    if reference is not None:
        run.probe(model, reference.model, "base", steps)


def _immunise(
    run: Run,
    start: Loaded,
    defence: Defence,
    seed: int,
    progress: Callable[[int, int], None],
    fingerprint: str,
) -> nn.Module:
    size = defence.batch_size
    drawn = streams(run.domain, defence.draws, start.tokenizer, split="defend",
                    batch_size=size, n=size * defence.steps, seed=seed)  # fmt: skip
    recorder = run.recorder(defence.steps)
    sizes = MicroBatches(run.writer)

    def watch(step: Step, model: nn.Module) -> None:
        sizes.note(step.step, step.micro_batch)
        run.writer.append(_losses("defence", step.step, step.losses, step.lr, step.grad_norm))
        progress(step.step, defence.steps)
        if recorder is not None and not step.restored:
            recorder(model, step.step)

    checkpoint = Checkpoint(run.writer.path(CHECKPOINT), fingerprint)
    if recorder is not None:
        recorder(start.model, 0)
    model = defence.immunise(
        start.model, drawn, seed=seed, callbacks=[watch], checkpoint=checkpoint
    )
    if recorder is not None:
        recorder.close()
    return model


def attack_run(
    run: Run,
    start: Loaded,
    attack: Attack,
    seed: int,
    *,
    progress: Callable[[int, int], None],
) -> None:
    """Attack a model, measuring θ_t while it lives. Its weights are not kept."""
    drawn = streams(run.domain, attack.streams, run.tokenizer, split="attack",
                    batch_size=attack.batch_size, n=attack.samples, seed=seed)  # fmt: skip
    m, budget = run.measures, attack.budget
    curve, probes = m.steps(m.curve_at, budget), m.steps(m.probe_at, budget)
    released, recorder = deepcopy(start.model), run.recorder(budget)
    sizes = MicroBatches(run.writer)
    run.writer.append(run.texts())
    for now in attack.run(start.model, drawn, seed=seed):
        progress(now.step, budget)
        sizes.note(now.step, now.micro_batch)
        run.writer.append(_losses("attack", now.step, now.losses, now.lr, now.grad_norm))
        if now.step in curve:
            run.measure(now.model, now.step)
            run.writer.append(_cost(now))
            run.writer.flush()  # so that a dashboard sees the curve rise
        if now.step in probes:
            run.probe(now.model, released, "released", now.step)
        if recorder is not None:
            recorder(now.model, now.step)
    if recorder is not None:
        recorder.close()


def _losses(
    stage: Stage, step: int, losses: dict[str, float], lr: float, grad_norm: float
) -> list[Loss]:
    return [
        Loss(stage=stage, step=step, term=term, value=value, lr=lr, grad_norm=grad_norm)
        for term, value in losses.items()
    ]


def _cost(now: Attacked) -> Cost:
    spent = now.spent
    return Cost(
        stage="attack",
        step=now.step,
        samples=spent.samples,
        tokens=spent.tokens,
        flops=spent.flops,
        seconds=spent.seconds,
    )
