"""Rows about the vocabulary pass: its memory, time and error beside logits held whole."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.measure import Figure, Work, interleaved, peak_live_bytes
from benchmarks.models import Shape, batch
from benchmarks.rep_noise import SOME, WIDE_VOCABULARY, wide_llama
from benchmarks.table import Bench, Row
from workbench.final_states import FinalStates, final_states
from workbench.vocabulary_pass import compare

PAIR = Shape(d_model=256, layers=2, batch=8, positions=64)
LITTLE = Shape(d_model=32, layers=2, batch=2, positions=8)


def models(shape: Shape, vocabulary: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model and one whose head is another, so that they differ by about a nat at a token."""
    p, q = (wide_llama(shape, vocabulary) for _ in range(2))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for model in (p, q):
            noise = torch.randn(model.lm_head.weight.shape, generator=random)
            model.lm_head.weight.copy_(noise / shape.d_model**0.5)
    return p, q


def direct(shape: Shape, vocabulary: int) -> Work:
    """KL by position as people write it: logits of both models, log-softmax, a sum."""
    p, q = models(shape, vocabulary)
    x = batch(shape)

    @torch.no_grad()
    def run() -> Tensor:
        states = [m.model(x.input_ids, x.attention_mask.long(), use_cache=False)[0] for m in (p, q)]
        lp, lq = (
            m.lm_head(h[:, :-1][x.scored]).log_softmax(-1)
            for m, h in zip((p, q), states, strict=True)
        )
        return (lp.exp() * (lp - lq)).sum(-1)

    return run


def streamed(shape: Shape, vocabulary: int) -> Work:
    """Ours: both directions of KL, and entropy, likelihood and Gini impurity of both."""
    p, q = models(shape, vocabulary)
    x = batch(shape)
    return lambda: compare(final_states(p, x), final_states(q, x)).forward_kl


def configuration(shape: Shape, vocabulary: int) -> dict[str, object]:
    """For the record."""
    return shape.configuration() | {
        "vocabulary": vocabulary,
        "response_positions": int(batch(shape).scored.sum()),
        "what": "ours also gives reverse KL, entropies, NLL and Gini; the peer KL alone",
    }


def memory(quick: bool) -> list[Figure]:
    """Peak of live tensors, of both from two models in memory to one KL a position."""
    shape, vocabulary = (LITTLE, SOME) if quick else (PAIR, WIDE_VOCABULARY)
    sizes = []
    for make in (streamed, direct):
        work = make(shape, vocabulary)
        work()
        sizes.append(peak_live_bytes(work) / 2**20)
    how = configuration(shape, vocabulary)
    return [Figure(value=sizes[0] / sizes[1], ours=sizes[0], peer=sizes[1], configuration=how)]


def time(quick: bool) -> list[Figure]:
    """The same, timed in turn."""
    shape, vocabulary = (LITTLE, SOME) if quick else (PAIR, WIDE_VOCABULARY)
    ours, peer = (make(shape, vocabulary) for make in (streamed, direct))
    times = interleaved(ours, peer, rounds=3 if quick else 15, warmup=1)
    return [times.figure(configuration(shape, vocabulary))]


def error(quick: bool) -> list[Figure]:
    """Largest relative error of KL at any position, against logits and sums in fp64."""
    shape, vocabulary = (LITTLE, SOME) if quick else (PAIR, WIDE_VOCABULARY)
    x = batch(shape)
    p, q = (final_states(m, x) for m in models(shape, vocabulary))
    exact = [_log_probs(states) for states in (p, q)]
    expected = (exact[0].exp() * (exact[0] - exact[1])).sum(-1)
    found = compare(p, q).forward_kl
    worst = float(((found - expected).abs() / expected).max())
    how = configuration(shape, vocabulary) | {
        "smallest_kl_nats": float(expected.min()),
        "largest_kl_nats": float(expected.max()),
    }
    return [Figure(value=worst, configuration=how)]


@torch.no_grad()
def _log_probs(states: FinalStates) -> Tensor:
    weight = states.head.head.weight
    return nn.functional.linear(states.values.double(), weight.double()).log_softmax(-1)


WHAT = "vocabulary 128k, 256 response positions"
PEER = "logits of both models at response positions, log-softmax, one sum"
BENCHES = (
    Bench(
        (
            Row(
                "vocab_pass_memory_ratio",
                f"live memory of the streaming vocabulary pass / of whole logits, {WHAT}",
                goal=0.20,
                sides="MiB",
                peer=PEER,
            ),
        ),
        memory,
    ),
    Bench(
        (
            Row(
                "vocab_pass_time_ratio",
                f"its time, decoders included / of KL from whole logits, {WHAT}",
                goal=1.00,
                peer=PEER,
            ),
        ),
        time,
    ),
    Bench(
        (
            Row(
                "vocab_pass_error",
                f"its largest relative error in KL, {WHAT}",
                goal=1e-5,
                unit="relative",
                peer="fp64",
            ),
        ),
        error,
    ),
)
