"""The row about circuit breakers: its step beside plain fine-tuning on the same two batches.

Both are whole steps of the shared loop. The peer learns the responses of both batches; circuit
breakers reads each batch twice, the start model's pass without gradients, but only through the
blocks up to the last rerouted one, and never through the head.
"""

from collections.abc import Mapping

from torch import nn

from benchmarks.measure import Figure, interleaved
from benchmarks.models import QUICK, USUAL, VOCABULARY, Shape, batch, llama
from benchmarks.table import Bench, Row
from benchmarks.training import ENDLESS, same
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences.circuit_breakers import CircuitBreakers
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.training import Context, Losses, Mean, train

STREAMS = ("harmful", "retain")
FIT = Fit(steps=ENDLESS, lr=1e-5, schedule="constant")


def fine_tuning(lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
    """Cross-entropy on every stream."""

    def loss(part: Mapping[str, Batch]) -> Losses:
        return {name: cross_entropy(lm(x).logits, x) for name, x in part.items()}

    return context.minimise(loss, batches, {name: Mean(name) for name in batches})


def block_macs(lm: HookedLM, shape: Shape) -> int:
    """Multiply-accumulates of one block's forward pass on one token: weights, and attention."""
    weights = sum(
        m.weight.numel() for m in lm.parts.blocks[0].modules() if isinstance(m, nn.Linear)
    )
    return weights + 2 * shape.positions * shape.d_model


def limit(lm: HookedLM, shape: Shape, run: int) -> float:
    """(F + F + B) of the blocks that run / (F + B) of all blocks and the head, B = 2 F."""
    block = block_macs(lm, shape)
    return 4 * run * block / (3 * (shape.layers * block + shape.d_model * VOCABULARY))


def circuit_breakers_step(quick: bool) -> list[Figure]:
    """A step of circuit breakers, all weights, a frozen copy as reference, and of fine-tuning."""
    shape, method = QUICK if quick else USUAL, CircuitBreakers(fit=FIT)
    drawn = {name: s for stream in STREAMS for name, s in same(stream, batch(shape)).items()}
    ours, peer = HookedLM(llama(shape)), HookedLM(llama(shape))
    run = method.rerouted(ours)[-1] + 1
    loops = (
        train(ours.model, drawn, method.objective(ours, drawn), FIT),
        train(peer.model, drawn, lambda x, context: fine_tuning(peer, x, context), FIT),
    )
    times = interleaved(*[lambda s=s: next(s) for s in loops], rounds=3 if quick else 60)
    how = {"blocks_run": run, "reference": "copy", "streams": 2, "optimiser": "adamw"}
    return [times.figure(shape.configuration() | how, limit_value=limit(ours, shape, run))]


BENCHES = (
    Bench(
        (
            Row(
                "circuit_breakers_step_ratio",
                "circuit breakers' step / fine-tuning on the same two batches, all weights",
                goal=0.88,  # 1.10 times the limit
                peer="the same loop, cross-entropy of both batches",
                limit="(F + F + B) of 5 blocks / (F + B) of 8 blocks and the head, B = 2 F",
            ),
        ),
        circuit_breakers_step,
    ),
)
