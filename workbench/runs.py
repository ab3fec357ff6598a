"""One run, made: immunise an arm, or attack one, measuring and recording while it happens."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from workbench.attacks._base import Attack, Attacked
from workbench.data import tokenizer_digest
from workbench.defences._base import Defence
from workbench.domains import Domain, streams
from workbench.errors import InvalidValueError, MissingStreamError, ModelError
from workbench.measures import Measures
from workbench.metrics import Measured, measure
from workbench.models import Loaded, save
from workbench.panel import Panel, prompt_set, texts
from workbench.prefill import prefill_curve
from workbench.probes._base import At, Measurement, Probe, measurements
from workbench.read_only import refuse_read_only
from workbench.recording import Recorder
from workbench.resume import Checkpoint
from workbench.rows import Cost, Loss, Stage
from workbench.store import ACTIVATIONS, CHECKPOINT, RunWriter
from workbench.training import Step

MODEL = "model"


@dataclass
class Run:
    """What every run needs: where it writes, what it measures, and on which prompts."""

    writer: RunWriter
    domain: Domain
    measures: Measures
    tokenizer: Any
    stage: Stage
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m = self.measures
        self.panel = Panel(self.domain, self.tokenizer, m.split, m.panel)

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

    def against(self, reference: nn.Module | None) -> list[Measurement]:
        """The study's probes, ready to compare checkpoints with a reference."""
        if not self.panel.groups:
            return []
        able = {
            n: p for n, p in self.probes.items() if reference is not None or not p.needs_reference
        }
        return measurements(able, reference, self.panel, self._left_out)

    @contextmanager
    def _left_out(self, name: str) -> Iterator[None]:
        """A probe that these texts or this model cannot serve is noted; the run goes on."""
        try:
            yield
        except (MissingStreamError, InvalidValueError, ModelError) as error:
            self.writer.event({"event": "probe_left_out", "probe": name, "why": str(error)})

    def recorder(self, budget: int) -> Recorder | None:
        """Keeps the panel's activations in the run folder; None if nothing is to be recorded.

        A run that is made again passes through the same weights: steps on disk are kept.
        """
        if not (self.panel.groups and self.measures.record_sites):
            return None
        return Recorder(
            self.writer.path(ACTIVATIONS),
            [self.panel.batch(group) for group in self.panel.groups],
            self.measures.record_sites,
            positions=self.measures.record_positions,
            at=self.measures.record_steps(budget),
            model=self.writer.header.hashes["start"],
            tokenizer=tokenizer_digest(self.tokenizer),
            texts=prompt_set(self.panel).identity,
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
    run.writer.append(texts(run.panel))
    run.measure(model, steps)
    run.prefill(model, steps)
    at = At("defence", steps, "" if reference is None else "base")
    for look in run.against(None if reference is None else reference.model):
        run.writer.append(look(model, at))


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
    refuse_read_only(start.model, "attacking")
    drawn = streams(run.domain, attack.streams, run.tokenizer, split="attack",
                    batch_size=attack.batch_size, n=attack.samples, seed=seed)  # fmt: skip
    m, budget = run.measures, attack.budget
    curve, probed = m.steps(m.curve_at, budget), m.steps(m.probe_at, budget)
    probes, recorder = run.against(deepcopy(start.model)), run.recorder(budget)
    sizes = MicroBatches(run.writer)
    run.writer.append(texts(run.panel))
    for now in attack.run(start.model, drawn, seed=seed):
        progress(now.step, budget)
        sizes.note(now.step, now.micro_batch)
        run.writer.append(_losses("attack", now.step, now.losses, now.lr, now.grad_norm))
        if now.step in curve:
            run.measure(now.model, now.step)
            run.writer.append(_cost(now))
            run.writer.flush()  # so that a dashboard sees the curve rise
        if now.step in probed:
            for look in probes:
                run.writer.append(look(now.model, At("attack", now.step, "released")))
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
