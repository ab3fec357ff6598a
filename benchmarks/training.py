"""Rows about training: what a defence's step costs beside plain fine-tuning, and recording it.

Every step here is one of the shared loop's, whole: batch, objective, clipping, AdamW.
"""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

from torch import nn

from benchmarks.measure import Figure, Work, interleaved
from benchmarks.models import QUICK, USUAL, batch, llama
from benchmarks.table import Bench, Row
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, Example, Stream, Streams, encode
from workbench.defences import Vaccine
from workbench.demo import lab_alignment
from workbench.domains import streams
from workbench.lab.domain import LabDomain
from workbench.models import load
from workbench.optimisation import Fit
from workbench.recording import Recorder, kept_positions
from workbench.training import Step, train

ENDLESS = 10**9
EVERY, PANEL = 10, 64


@dataclass(frozen=True, kw_only=True)
class SameBatch(Stream):
    """A stream that gives one batch of tokens again and again."""

    x: Batch

    def batch(self, step: int) -> Batch:
        """The batch of any step."""
        return self.x


def same(name: str, x: Batch) -> Streams:
    """A stream by this name; what a stream of text would need is not read."""
    text = [Example(x.examples[0], None, "")]
    return {name: SameBatch(name=name, examples=text, tokenizer=None, batch_size=len(x), x=x)}


def steps(model: nn.Module, drawn: Streams, defence: Vaccine, fit: Fit) -> Iterator[Step]:
    """The shared loop, one step at a time."""
    lm = HookedLM(model)
    return train(model, drawn, lambda parts, context: defence.backward(lm, parts, context), fit)


def vaccine_step(quick: bool, *, lora_rank: int = 0) -> list[Figure]:
    """A step of Vaccine beside one of its matched control, which is supervised fine-tuning."""
    shape = QUICK if quick else USUAL
    defence, drawn = Vaccine(rho=2.0), same("align", batch(shape))
    loops = []
    for method in (defence, defence.matched_control()):
        model: nn.Module = llama(shape)
        if lora_rank:
            model = with_lora(model, rank=lora_rank)
        loops.append(steps(model, drawn, method, Fit(steps=ENDLESS, lr=1e-5, schedule="constant")))
    times = interleaved(*[lambda s=s: next(s) for s in loops], rounds=3 if quick else 60)
    how = shape.configuration() | {"lora_rank": lora_rank, "optimiser": "adamw"}
    return [times.figure(how, limit_value=4 / 2 if lora_rank else 5 / 3)]


def vaccine_lora_step(quick: bool) -> list[Figure]:
    """The same with adapters on every linear layer."""
    return vaccine_step(quick, lora_rank=8)


def recorder_training(quick: bool) -> list[Figure]:
    """The lab model's alignment, a panel recorded every ten steps; ten steps are one round."""
    start, domain, fit = load("lab:base"), LabDomain(), lab_alignment()
    every, size = (2, 4) if quick else (EVERY, PANEL)
    drawn = streams(domain, ("align",), start.tokenizer, split="defend",
                    batch_size=fit.batch_size, n=fit.batch_size * fit.steps, seed=0)  # fmt: skip
    panel = encode(
        start.tokenizer, [q.example for q in domain.questions("defend", "hazard")[:size]]
    )
    with tempfile.TemporaryDirectory() as folder, Recorder(folder, [panel], every=every) as kept:
        recorded = stepping(deepcopy(start.model), drawn, fit, kept)
        plain = stepping(deepcopy(start.model), drawn, fit)
        rounds = every * (2 if quick else 40)
        times = interleaved(recorded, plain, rounds=rounds, clock="wall").grouped(every)
    read, tokens = until_last_kept(panel), drawn["align"].batch(0).input_ids.numel()
    how = {
        "model": "lab:base",
        "training": f"alignment, full, batches of {fit.batch_size}",
        "panel": f"{size} hazards, last prompt token of every block, every {every} steps, bf16",
        "tokens_of_a_batch": tokens,
        "tokens_of_the_panel": read,
    }
    return [times.figure(how, limit_value=1 + read / (3 * every * tokens))]


def stepping(model: nn.Module, drawn: Streams, fit: Fit, recorder: Recorder | None = None) -> Work:
    """One step of training, and its recording if due."""
    endless = steps(model, drawn, Vaccine(rho=0.0), replace(fit, steps=ENDLESS))

    def run() -> None:
        step = next(endless)
        if recorder is not None:
            recorder(model, step.step)

    return run


def until_last_kept(panel: Batch) -> int:
    """Tokens, padding included, that a causal model has to read of a panel."""
    last = int(kept_positions(panel, "last_prompt").any(0).nonzero().max())
    return len(panel) * (last + 1)


BENCHES = (
    Bench(
        (
            Row(
                "vaccine_step_ratio",
                "Vaccine's step / its matched control's (fine-tuning), all weights",
                goal=1.85,
                peer="the same loop, ρ = 0",
                limit="(F + B/2 + F + B) / (F + B), B = 2 F",
            ),
        ),
        vaccine_step,
    ),
    Bench(
        (
            Row(
                "vaccine_lora_step_ratio",
                "the same with LoRA of rank 8",
                goal=2.05,
                peer="the same loop, ρ = 0",
                limit="2 (F + B/2) / (F + B/2), adapters not counted",
            ),
        ),
        vaccine_lora_step,
    ),
    Bench(
        (
            Row(
                "recorder_training_ratio",
                "training with a panel of 64 prompts recorded every 10 steps / without",
                goal=1.05,
                peer="the same loop, no recorder",
                limit="1 + panel tokens · F / (10 steps · batch tokens · 3 F)",
                reason="reading the panel alone is 4 % of ten steps this small (the limit), and "
                "the ratio by CPU time is at that limit; the rest is waiting for the disk: each "
                "recorded step syncs six site files and the manifest, on a disk that others use.",
            ),
        ),
        recorder_training,
    ),
)
