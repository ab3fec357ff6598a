"""Rows about reading and changing activations: `HookedLM` beside plain torch and its peers."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Figure, Work, interleaved, peak_live_bytes
from benchmarks.models import QUICK, TINY, USUAL, Shape, batch, llama
from benchmarks.table import Bench, Row
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.losses import cross_entropy

SITE = "resid_post"


def plain_forward(model: Any, x: Batch) -> Work:
    """The forward pass as transformers documents it."""
    mask = x.attention_mask.long()

    def run() -> None:
        with torch.no_grad():
            model(input_ids=x.input_ids, attention_mask=mask, use_cache=False)

    return run


def recorded_forward(lm: HookedLM, x: Batch) -> Work:
    """The same, keeping every block's output."""

    def run() -> None:
        with torch.no_grad(), lm.record(SITE):
            lm(x)

    return run


def record_forward(quick: bool) -> list[Figure]:
    """At the usual size."""
    return [_beside_plain(QUICK if quick else USUAL, rounds=3 if quick else 150, calls=1)]


def record_tiny(quick: bool) -> list[Figure]:
    """Where a forward pass takes a millisecond or two, our own code shows most."""
    return [_beside_plain(QUICK if quick else TINY, rounds=3 if quick else 300, calls=10)]


def _beside_plain(shape: Shape, rounds: int, calls: int) -> Figure:
    model, x = llama(shape), batch(shape)
    ours, peer = recorded_forward(HookedLM(model), x), plain_forward(model, x)
    times = interleaved(ours, peer, rounds=rounds, calls=calls)
    return times.figure(shape.configuration(), limit_value=1.0)


def record_beside_transformer_lens(quick: bool) -> list[Figure]:
    """TransformerLens's filtered `run_with_cache`, on a module tree that shares our weights."""
    from transformer_lens.model_bridge import TransformerBridge

    shape = QUICK if quick else USUAL
    model, x = llama(shape), batch(shape)
    model.config.architectures = [type(model).__name__]
    bridge = TransformerBridge.boot_transformers(
        "local/model", hf_model=shell(model), tokenizer=_tokenizer(), device="cpu"
    )
    lm = HookedLM(model)
    names = list(lm.resolve(SITE))
    mask = x.attention_mask.long()

    def theirs() -> Any:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                x.input_ids, names_filter=names, attention_mask=mask, use_cache=False
            )
        return cache

    require_equal(lm, x, lambda name: theirs()[name])
    times = interleaved(recorded_forward(lm, x), theirs, rounds=3 if quick else 100)
    return [times.figure(shape.configuration(), inverse=True)]


def record_beside_nnsight(quick: bool) -> list[Figure]:
    """nnsight's `tracer.cache` of the blocks, on a module tree that shares our weights."""
    from nnsight import TransformersModel

    shape = QUICK if quick else USUAL
    model, x = llama(shape), batch(shape)
    lm = HookedLM(model)
    theirs = TransformersModel(shell(model), tokenizer=_tokenizer(), task="text-generation")
    blocks, mask = list(theirs.model.layers), x.attention_mask.long()

    def traced() -> Any:
        inputs = {"input_ids": x.input_ids, "attention_mask": mask}
        with torch.no_grad(), theirs.trace(inputs, use_cache=False) as tracer:
            cache = tracer.cache(modules=blocks).save()
        return cache

    paths = dict(zip(lm.resolve(SITE), [block.path for block in blocks], strict=True))
    require_equal(lm, x, lambda name: traced()[paths[name]].output)
    times = interleaved(recorded_forward(lm, x), traced, rounds=3 if quick else 100)
    return [times.figure(shape.configuration())]


def edit_step(quick: bool) -> list[Figure]:
    """Forward and backward with a vector added at every block's output."""
    shape = QUICK if quick else USUAL
    model, x = llama(shape), batch(shape)
    lm, mask, vector = HookedLM(model), x.attention_mask.long(), torch.full((shape.d_model,), 1e-3)

    def edited() -> None:
        with lm.intervene({SITE: lambda h, _: h + vector}):
            cross_entropy(lm(x).logits, x).backward()
        model.zero_grad()

    def plain() -> None:
        out = model(input_ids=x.input_ids, attention_mask=mask, use_cache=False)
        cross_entropy(out.logits, x).backward()
        model.zero_grad()

    times = interleaved(edited, plain, rounds=3 if quick else 60)
    return [times.figure(shape.configuration(), limit_value=1.0)]


def record_memory(quick: bool) -> list[Figure]:
    """Live bytes of a recording pass, without the model and without what was asked for."""
    shape = QUICK if quick else USUAL
    model, x = llama(shape), batch(shape)
    lm = HookedLM(model)
    ours, peer = recorded_forward(lm, x), plain_forward(model, x)
    ours()
    peer()
    asked = lm.n_layers * shape.batch * shape.positions * shape.d_model * 4
    overhead, plain = ((peak_live_bytes(f) - less) / 1e6 for f, less in ((ours, asked), (peer, 0)))
    how = shape.configuration() | {"bytes_asked_for": asked}
    return [Figure(overhead, ours=overhead, peer=plain, configuration=how)]


def shell(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every weight; the libraries rewrite what they get."""
    return deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})


def require_equal(lm: HookedLM, x: Batch, theirs: Callable[[str], torch.Tensor]) -> None:
    """Make sure that both record the same numbers before anybody is timed."""
    with torch.no_grad(), lm.record(SITE) as acts:
        lm(x)
    for name in acts:
        torch.testing.assert_close(theirs(name), acts[name], rtol=1e-3, atol=1e-4)


def _tokenizer() -> Any:
    """The peers want one; token ids are given, so it is never used."""
    from workbench.models import load

    return load("lab:base").tokenizer


BENCHES = (
    Bench(
        (
            Row(
                "record_forward_ratio",
                "forward pass recording every block's output / plain forward pass",
                goal=1.05,
                bound=True,
                peer="transformers",
                limit="1 F / 1 F",
            ),
        ),
        record_forward,
    ),
    Bench(
        (
            Row(
                "record_forward_vs_transformer_lens",
                "TransformerLens, filtered run_with_cache / the same recording",
                goal=1.10,
                better="higher",
                peer="TransformerLens",
            ),
        ),
        record_beside_transformer_lens,
    ),
    Bench(
        (
            Row(
                "record_forward_vs_nnsight",
                "the same recording / nnsight, tracer.cache",
                goal=1.05,
                bound=True,
                peer="nnsight",
            ),
        ),
        record_beside_nnsight,
    ),
    Bench(
        (
            Row(
                "edit_step_ratio",
                "forward and backward with an edit at every block / plain",
                goal=1.08,
                bound=True,
                peer="transformers",
                limit="(F + B) / (F + B)",
            ),
        ),
        edit_step,
    ),
    Bench(
        (
            Row(
                "record_tiny_ratio",
                "recording / plain forward pass on a tiny model",
                goal=1.15,
                peer="transformers",
                limit="1 F / 1 F",
            ),
        ),
        record_tiny,
    ),
    Bench(
        (
            Row(
                "record_memory_overhead_mb",
                "peak live bytes of a recording pass without model and recordings",
                goal=64,
                unit="MB",
                sides="MB",
                peer="plain pass",
            ),
        ),
        record_memory,
    ),
)
