"""Rows about T-Vaccine: what training a quarter of the layers costs in time and in memory.

Layers are drawn anew in every step, so that a figure speaks of T-Vaccine and not of one draw.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from torch import Tensor

from benchmarks.measure import Figure, interleaved, peak_live_bytes
from benchmarks.models import QUICK, USUAL, VOCABULARY, Shape, batch, llama
from benchmarks.table import Bench, Row
from benchmarks.training import ENDLESS, same
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences import TrainedDefence, Vaccine
from workbench.defences.t_vaccine import TVaccine, active_layers
from workbench.optimisation import Fit
from workbench.training import Context, Losses, Objective, Step, train

SEEN = 20
"""Steps whose peak is taken: enough draws that one reaches the lowest blocks, the dearest case."""


def t_vaccine(shape: Shape) -> TVaccine:
    """A quarter of the layers at a time, drawn anew in every step, scored once."""
    active = max(1, shape.layers // 4)
    return TVaccine(active=active, resample_every=1, rescore_every=ENDLESS)


def stepping(defence: TrainedDefence, shape: Shape, lowest: list[int]) -> Iterator[Step]:
    """The shared loop, all weights; notes the lowest active layer of each step."""
    model, x = llama(shape), batch(shape)
    lm = HookedLM(model)
    objective: Objective = defence.objective(lm, {})

    def noting(parts: Mapping[str, Batch], context: Context) -> Losses:
        losses = objective(parts, context)
        if "active" in context.memory:
            lowest.append(min(active_layers(context)))
        return losses

    drawn = {name: stream for n in defence.streams for name, stream in same(n, x).items()}
    return train(model, drawn, noting, Fit(steps=ENDLESS, lr=1e-5, schedule="constant"))


def step_time(quick: bool) -> list[Figure]:
    """A step beside one of plain fine-tuning of all weights."""
    shape, lowest = QUICK if quick else USUAL, list[int]()
    ours = stepping(t_vaccine(shape), shape, lowest)
    peer = stepping(Vaccine(rho=0.0), shape, [])
    rounds = 3 if quick else 60
    times = interleaved(lambda: next(ours), lambda: next(peer), rounds=rounds)
    counts = [share_of_step(shape, at) for at in lowest[-rounds:]]
    how = configuration(shape) | {"median_lowest_active_layer": median(lowest[-rounds:])}
    return [times.figure(how, limit_value=median(counts))]


def share_of_step(shape: Shape, lowest: int) -> float:
    """Multiplications of a strict T-Vaccine step over those of a fine-tuning step.

    A matrix product costs one unit forward, one for the gradient of its input and one for that of
    its weight; products of activations cost one forward and two backward. Below the lowest active
    block nothing goes backward; from it upwards inputs' gradients do, and active blocks' weights'.
    """
    d = shape.d_model
    width = round(d * 8 / 3 / 16) * 16
    qkv, mlp, head = 3 * d * d, 3 * d * width, d * VOCABULARY
    weights, products = qkv + d * d + mlp, 2 * shape.positions * d
    through = weights + 2 * products
    above, active = shape.layers - 1 - lowest, max(1, shape.layers // 4)
    forward = shape.layers * (weights + products) + head
    first = forward + head + above * through + mlp  # down to what the lowest attention gives
    second = forward + head + above * through + (through - qkv) + active * weights
    return (first + second) / (3 * forward)


def step_memory(quick: bool) -> list[Figure]:
    """Peaks of both methods, each in a process of its own.

    The figure leaves out weights and the optimiser's moments, which a frozen layer keeps until it
    is drawn again; the ratio with both is noted beside it.
    """
    shape, steps = QUICK if quick else USUAL, 2 if quick else SEEN
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        found = pool.map(peak, [t_vaccine, vaccine], [shape] * 2, [steps] * 2)
    (ours, held, lowest), (peer, held_by_peer, _) = found
    how = configuration(shape) | {
        "steps": steps,
        "lowest_active_layer": lowest,
        "counted": "activations, gradients, ε",
        "weights_and_moments_mb": [round(x / 1e6, 1) for x in (held, held_by_peer)],
        "ratio_with_weights_and_moments": round((held + ours) / (held_by_peer + peer), 4),
    }
    return [Figure(ours / peer, ours=ours / 1e6, peer=peer / 1e6, configuration=how)]


def vaccine(shape: Shape) -> Vaccine:
    """All layers."""
    return Vaccine(rho=2.0)


def peak(
    defence: Callable[[Shape], TrainedDefence], shape: Shape, steps: int
) -> tuple[int, int, int | None]:
    """Most bytes alive in some steps, beyond weights and the optimiser's moments; those two.

    And the lowest layer that was active in them, if layers are drawn.
    """
    lowest: list[int] = []
    loop = stepping(defence(shape), shape, lowest)
    for _ in range(steps):  # by then nearly every layer was drawn, and has its moments
        next(loop)
    held = alive()
    most = peak_live_bytes(lambda: [next(loop) for _ in range(steps)])
    return most, held, min(lowest[-steps:], default=None)


def alive() -> int:
    """Bytes of all tensors of this process: between two steps, of weights and moments."""
    gc.collect()
    found = [x.untyped_storage() for x in gc.get_objects() if issubclass(type(x), Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


def configuration(shape: Shape) -> dict[str, object]:
    """For the record."""
    return shape.configuration() | {
        "training": "all weights, adamw",
        "active_layers": max(1, shape.layers // 4),
        "freeze_policy": "strict",
        "layers_drawn": "every step",
    }


BENCHES = (
    Bench(
        (
            Row(
                "t_vaccine_step_ratio",
                "T-Vaccine's step, a quarter of the layers active / fine-tuning, all weights",
                goal=1.57,
                peer="the same loop, ρ = 0, all layers",
                limit="(2 F + backward to the lowest active block, twice, with the active blocks' "
                "weights once) / (F + B), median of the draws measured; the goal is 1.10 × that "
                "with block 0 active",
            ),
        ),
        step_time,
    ),
    Bench(
        (
            Row(
                "t_vaccine_memory_ratio",
                "most memory for activations, gradients and ε in T-Vaccine's steps / in Vaccine's, "
                "all weights trained; weights and the optimiser's moments not counted",
                goal=0.8,
                sides="MB",
                peer="Vaccine, all layers",
            ),
        ),
        step_memory,
    ),
)
