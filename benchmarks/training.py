"""Rows about training: what a defence's step costs beside plain fine-tuning, and recording it.

Every step here is one of the shared loop's, whole: batch, objective, clipping, AdamW.
"""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.measure import Figure, interleaved
from benchmarks.models import QUICK, USUAL, Shape, batch, llama
from benchmarks.table import Bench, Row
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, Streams, encode
from workbench.defences import Vaccine
from workbench.demo import lab_alignment
from workbench.domains import streams
from workbench.lab.domain import LabDomain
from workbench.models import load
from workbench.optimisation import Fit
from workbench.recording import Recorder
from workbench.training import Step, train

ENDLESS = 10**9
EVERY, PANEL = 10, 64


@dataclass(frozen=True)
class SameBatch:
    """A stream that gives one batch again and again."""

    x: Batch

    def batch(self, step: int) -> Batch:
        """The batch of any step."""
        return self.x


def steps(model: nn.Module, drawn: Any, defence: Vaccine, fit: Fit) -> Iterator[Step]:
    """The shared loop, one step at a time."""
    lm = HookedLM(model)
    return train(model, drawn, lambda parts, context: defence.backward(lm, parts, context), fit)


def vaccine_step(quick: bool, *, lora_rank: int = 0) -> list[Figure]:
    """A step of Vaccine beside one of its matched control, which is supervised fine-tuning."""
    shape = QUICK if quick else USUAL
    defence, x = Vaccine(rho=2.0), {"align": SameBatch(batch(shape))}
    loops = []
    for method in (defence, defence.matched_control()):
        model: nn.Module = llama(shape)
        if lora_rank:
            model = with_lora(model, rank=lora_rank)
        loops.append(steps(model, x, method, Fit(steps=ENDLESS, lr=1e-5, schedule="constant")))
    times = interleaved(*[lambda s=s: next(s) for s in loops], rounds=3 if quick else 60)
    how = shape.configuration() | {"lora_rank": lora_rank, "optimiser": "adamw"}
    return [times.figure(how, limit_value=4 / 2 if lora_rank else 5 / 3)]


def vaccine_lora_step(quick: bool) -> list[Figure]:
    """The same with adapters on every linear layer."""
    return vaccine_step(quick, lora_rank=8)


def recorder_training(quick: bool) -> list[Figure]:
    """The lab model's alignment, ten steps at a time, a panel recorded in one of them."""
    start, domain, fit = load("lab:base"), LabDomain(), lab_alignment()
    every, panel = (2, 4) if quick else (EVERY, PANEL)
    drawn = streams(domain, ("align",), start.tokenizer, split="defend",
                    batch_size=4 if quick else fit.batch_size, n=ENDLESS if False else 2048, seed=0)  # fmt: skip
    asked = [q.example for q in domain.questions("defend", "hazard")][:panel]
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(folder, [encode(start.tokenizer, asked)], every=every)
        recorded = _block(deepcopy(start.model), drawn, every, recorder)
        plain = _block(deepcopy(start.model), drawn, every)
        rounds = 2 if quick else 30
        times = interleaved(recorded, plain, rounds=rounds, warmup=1, clock="wall")
        recorder.close()
    return [times.figure({}, limit_value=1.0)]
