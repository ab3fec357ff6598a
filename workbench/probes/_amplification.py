"""What blocks make of a push: how it grows, how it turns, and the most it can grow.

Rows are the chosen tokens of all examples, one after another. A push of an example is all its rows
together, so lengths and angles are those of one long vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.perturbations import ROWS, pushed, random_directions
from workbench.suffix import repeated, require_layers, run_from

Layers = Float[Tensor, "layer row d_model"]
Rows = Float[Tensor, "row d_model"]
Pushes = Float[Tensor, "draw row d_model"]
ByExample = Float[Tensor, "above draw example"]


@dataclass(frozen=True, eq=False)
class Shifts:
    """By how much h_m differs once h_l is pushed, for m = l … L."""

    start: int
    """l, where the push acts."""
    values: Float[Tensor, "above draw row d_model"]
    """In fp32; the first is the push as the model's type holds it."""
    clean: Float[Tensor, "above row d_model"]
    """h_m without a push."""
    lengths: tuple[int, ...]
    """How many rows each example has."""

    def gain(self) -> ByExample:
        """A = ‖h_m(h_l + δ) − h_m(h_l)‖ / ‖δ‖; 1 at m = l. NaN where nothing was pushed."""
        sizes = lengths_of(self.values, self.lengths)
        return sizes / sizes[0]

    def relative(self) -> ByExample:
        """The same with every length as a share of the states' own: A ‖h_l‖ / ‖h_m‖."""
        own = lengths_of(self.clean, self.lengths)
        return self.gain() * (own[0] / own)[:, None]

    def angle(self) -> ByExample:
        """Degrees between the push and what became of it."""
        unit = self.values / self._spread(lengths_of(self.values, self.lengths))
        apart = lengths_of(unit - unit[0], self.lengths)
        together = lengths_of(unit + unit[0], self.lengths)
        return 2 * torch.atan2(apart, together).rad2deg()  # exact near 0, where arc cosine is not

    def measures(self) -> dict[str, ByExample]:
        """All of these, by name."""
        return {"gain": self.gain(), "relative": self.relative(), "angle": self.angle()}

    def part(self, draws: slice) -> "Shifts":
        """Some of the pushes."""
        return Shifts(self.start, self.values[:, draws], self.clean, self.lengths)

    def _spread(self, by_example: ByExample) -> Float[Tensor, "above draw row 1"]:
        counts = torch.tensor(self.lengths)
        wide = by_example.repeat_interleave(counts, dim=-1)[..., None]
        return wide.where(wide > 0, 1.0)


def lengths_of(
    x: Float[Tensor, "*left row d_model"], lengths: Sequence[int]
) -> Float[Tensor, "*left example"]:
    """The length of each example's rows taken together."""
    parts = x.split(list(lengths), dim=-2)
    return torch.stack([part.flatten(-2).norm(dim=-1) for part in parts], dim=-1)


@torch.no_grad()
def shifts(
    lm: HookedLM,
    batch: Batch,
    clean: Float[Tensor, "layer batch pos d_model"],
    layer: int,
    keep: Bool[Tensor, "batch pos"],
    delta: Pushes,
) -> Shifts:
    """Push h_l at the kept tokens and read every layer above it at the same tokens.

    Args:
        lm: the model.
        batch: what the clean pass read.
        clean: h_0 … h_L of that pass.
        layer: l.
        keep: which tokens.
        delta: the pushes, a row for each kept token.

    Raises:
        InvalidValueError: no such layer.
    """
    require_layers(lm, layer)
    own = clean[layer:, keep.to(clean.device)].float().cpu()
    sites = [f"resid_post.{i}" for i in range(layer, lm.n_layers)]
    parts = []
    for some in delta.split(max(1, ROWS // len(batch))):
        stream = pushed(clean[layer], keep, some)
        where = keep.repeat(len(some), 1).to(stream.device)
        found = [stream[where]]
        if sites:
            with evaluating(lm.model), lm.record(
                *sites, select=lambda x, _, at=where: x[at.to(x.device)]  # type: ignore[misc]
            ) as acts:  # fmt: skip
                run_from(lm, repeated(batch, len(some)), stream, layer)
            found += acts.values()
        read = torch.stack([x.float().cpu() for x in found])
        parts.append(read.unflatten(1, (len(some), -1)) - own[:, None])
    return Shifts(layer, torch.cat(parts, dim=1), own, tuple(keep.sum(1).tolist()))


def sigma_max(
    lm: HookedLM,
    batch: Batch,
    stream: Float[Tensor, "batch pos d_model"],
    start: int,
    stop: int,
    keep: Bool[Tensor, "batch pos"],
    steps: int = 8,
) -> Float[Tensor, " example"]:
    """The largest singular value of J = ∂h_stop / ∂h_start at the kept tokens, by power iteration.

    Each step is one product with J (forward mode) and one with its transpose (backward). The value
    comes to σ_max from below, the faster the farther the second largest lies.

    Args:
        lm: the model.
        batch: what the clean pass read.
        stream: h_start of that pass.
        start: where the push acts.
        stop: where it is read.
        keep: which tokens.
        steps: products with JᵀJ.

    Raises:
        InvalidValueError: no such layers, or no steps.
    """
    if steps < 1:
        raise InvalidValueError(f"power iteration needs at least one step, not {steps}.")
    require_layers(lm, start, stop)
    where, lengths = keep.to(stream.device), keep.sum(1).tolist()
    counts = torch.tensor(lengths, device=stream.device)

    def blocks(rows: Rows) -> Rows:
        whole = stream.masked_scatter(where[..., None], rows)
        return run_from(lm, batch, whole, start, stop)[where]

    def unit(x: Rows) -> Rows:
        size = lengths_of(x, lengths).repeat_interleave(counts)[:, None]
        return x / size.where(size > 0, 1.0)

    at = stream[where]
    (first,) = random_directions(batch.examples, lengths, at.shape[-1], 1, "sigma-max")
    v = unit(first.to(at))
    with evaluating(lm.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = at.clone().requires_grad_()
        out = blocks(leaf)  # one graph serves every product with the transpose
        for step in range(steps + 1):
            with torch.no_grad(), forward_ad.dual_level():
                pushed_up = forward_ad.unpack_dual(blocks(forward_ad.make_dual(at, v))).tangent
            if step < steps:
                (back,) = torch.autograd.grad(out, leaf, unit(pushed_up), retain_graph=True)
                v = unit(back)
    return lengths_of(pushed_up.float().cpu(), lengths)
