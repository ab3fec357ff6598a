"""Rows about RepNoise: a step beside the passes it needs, and what it holds in memory."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.measure import Figure, Work, interleaved, peak_live_bytes
from benchmarks.models import QUICK, USUAL, Shape, batch, llama
from benchmarks.table import Bench, Row
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences.rep_noise import RepNoise
from workbench.losses import cross_entropy
from workbench.readout import read_out
from workbench.training import Context

WIDE = Shape(d_model=64, layers=4, batch=4, positions=64)
WIDE_VOCABULARY, SOME = 128_000, 4_000


def pairs(shape: Shape) -> dict[str, Batch]:
    """Two answers of random tokens to each prompt of random tokens; half of a row is the answer."""
    harmful = batch(shape)
    other = harmful.input_ids.roll(1, 0).where(harmful.response_mask, harmful.input_ids)
    return {"harmful": harmful, "refusal": replace(harmful, input_ids=other)}


def gradients(lm: HookedLM, batches: Mapping[str, Batch]) -> Work:
    """The gradients of one step of RepNoise; clipping and optimiser are no part of it."""
    method, device = RepNoise(), Accelerator(cpu=True)
    context = Context(0, 1, torch.Generator().manual_seed(0), device)
    read_out(lm)  # proved before, once for all steps

    def run() -> None:
        lm.model.zero_grad()
        method.backward(lm, batches, context)

    return run


def counted(model: PreTrainedModel, batches: Mapping[str, Batch]) -> Work:
    """The count, written by hand: two decoder passes and L + 2 head passes, backwards included.

    A head pass is the final norm, the head and the cross-entropy at response positions; its forward
    runs again in backward, in ours as here, since keeping the logits is what cannot be afforded.
    """
    parts = list(batches.values())
    states = torch.randn(int(parts[0].scored.sum()), model.config.hidden_size)
    targets = parts[0].input_ids[:, 1:][parts[0].scored]

    def head(h: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model.lm_head(model.model.norm(h)), targets)

    def run() -> None:
        model.zero_grad()
        for x in parts:
            model.model(x.input_ids, x.attention_mask.long(), use_cache=False)[0].sum().backward()
        for _ in range(model.config.num_hidden_layers + 2):
            checkpoint(head, states.clone().requires_grad_(), use_reentrant=False).backward()

    return run


def step_time(quick: bool) -> list[Figure]:
    """A step's gradients beside the count."""
    shape = QUICK if quick else USUAL
    batches = pairs(shape)
    ours, peer = gradients(HookedLM(llama(shape)), batches), counted(llama(shape), batches)
    times = interleaved(ours, peer, rounds=3 if quick else 40)
    return [times.figure(shape.configuration() | {"method": "alpha 1, beta 1e-3"}, limit_value=1.0)]


def wide_llama(shape: Shape, vocabulary: int) -> PreTrainedModel:
    """A model whose logits outweigh everything else."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.d_model,
        intermediate_size=3 * shape.d_model,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.d_model // 32),
        vocab_size=vocabulary,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).eval()


def step_memory(quick: bool) -> list[Figure]:
    """A step's gradients beside fine-tuning's on the refusals, as everyone takes its loss."""
    shape, vocabulary = (QUICK, SOME) if quick else (WIDE, WIDE_VOCABULARY)
    batches = pairs(shape)
    lm = HookedLM(wide_llama(shape, vocabulary))
    refusal = batches["refusal"]

    def fine_tuning() -> None:
        lm.model.zero_grad()
        cross_entropy(lm(refusal).logits, refusal).backward()

    ours, peer = gradients(lm, batches), fine_tuning
    sizes = []
    for work in (ours, peer):
        work()  # what is made once is no part of a step
        lm.model.zero_grad()
        sizes.append(peak_live_bytes(work) / 2**20)
    how = shape.configuration() | {"vocabulary": vocabulary, "response_share": 0.5}
    return [Figure(value=sizes[0] / sizes[1], ours=sizes[0], peer=sizes[1], configuration=how)]


BENCHES = (
    Bench(
        (
            Row(
                "rep_noise_step_ratio",
                "RepNoise's step / the passes it counts, all weights",
                goal=1.15,
                peer="the count, run by hand",
                limit="2 (F + B) of the decoder + (L + 2) head passes over response positions, "
                "each with its forward twice, as logits are not kept",
            ),
        ),
        step_time,
    ),
    Bench(
        (
            Row(
                "rep_noise_memory_ratio",
                "live memory of RepNoise's step / of fine-tuning's, vocabulary 128k",
                goal=1.5,
                sides="MiB",
                peer="cross-entropy on all logits of one of its two batches",
            ),
        ),
        step_memory,
    ),
)
