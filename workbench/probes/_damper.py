"""A damper: one direction taken out of the stream at one layer, as a defence might.

The direction is fitted where a push is known and tried where it is not: u is the first right
singular vector of the shifts of half of the examples, and serves the other half. Taken out is
(h − μ)·u, with μ the mean clean state of the fitted half, so that a damper which is good at its
task leaves clean states nearly where they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.perturbations import random_directions
from workbench.probes._amplification import Pushes, Rows, Shifts, lengths_of, shifts


@dataclass(frozen=True, eq=False)
class Directions:
    """What a damper takes out of each row: u (length 1) and the μ it is measured from."""

    unit: Rows
    centre: Rows

    def damped(self, h: Float[Tensor, "*draw row d_model"]) -> Float[Tensor, "*draw row d_model"]:
        """H − ((h − μ)·u) u."""
        along = ((h - self.centre) * self.unit).sum(-1, keepdim=True)
        return h - along * self.unit


def fitted(shift: Pushes, clean: Rows, lengths: Sequence[int]) -> Directions:
    """For each half of the examples, the main direction of the other half's shifts.

    Raises:
        InvalidValueError: fewer than two examples.
    """
    if len(lengths) < 2:
        raise InvalidValueError("a damper is fitted on one half of the prompts: give two or more.")
    odd = torch.tensor([i % 2 for i in range(len(lengths))], dtype=torch.bool)
    odd = odd.repeat_interleave(torch.tensor(lengths))
    unit, centre = torch.zeros_like(clean), torch.zeros_like(clean)
    for half in (odd, ~odd):
        seen = shift[:, ~half].flatten(0, 1)
        unit[half] = torch.linalg.svd(seen, full_matrices=False).Vh[0]
        centre[half] = clean[~half].mean(0)
    return Directions(unit, centre)


def any_direction(like: Directions, *key: object) -> Directions:
    """The same with a random direction, one for all rows: the control."""
    (way,) = random_directions(["control"], [1], like.unit.shape[-1], 1, *key)
    return Directions((way / way.norm()).expand_as(like.unit), like.centre)


def damp(
    lm: HookedLM,
    batch: Batch,
    clean: Float[Tensor, "layer batch pos d_model"],
    keep: Bool[Tensor, "batch pos"],
    pushes: Shifts,
    layer: int,
    directions: Directions,
) -> tuple[Float[Tensor, "draw example"], Float[Tensor, " example"]]:
    """Run on from a layer with the directions taken out, with the pushes and without them.

    Returns:
        The amplification from the push up to layer L, and how far the damper alone moves h_L, as a
        share of its length.
    """
    k = layer - pushes.start
    h, moved = pushes.clean[k], pushes.clean[k] + pushes.values[k]
    delta = torch.cat([directions.damped(h)[None], directions.damped(moved)]) - h
    ends = shifts(lm, batch, clean, layer, keep, delta).values[-1]
    size = lengths_of(pushes.values[0], pushes.lengths)
    side = lengths_of(ends[0], pushes.lengths) / lengths_of(pushes.clean[-1], pushes.lengths)
    return lengths_of(ends[1:] - ends[0], pushes.lengths) / size, side
