"""Pushes of the residual stream at chosen tokens: random and gradient directions, matched in size.

The states of the tokens that are pushed stand one after another, example after example, as
`[row, d_model]`, with a leading axis where there are several pushes of each.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch, generator
from workbench.errors import InvalidValueError
from workbench.positions import kept_positions
from workbench.readout import ReadOut, read_out
from workbench.states import require_room
from workbench.suffix import last, repeated, require_layers, run_from

ROWS = 256
"""Sequences that go through the blocks at a time."""
Scaling = Literal["norm", "moments"]
Rows = Float[Tensor, "... row d_model"]
Stream = Float[Tensor, "batch pos d_model"]
Keep = Bool[Tensor, "batch pos"]


def random_directions(
    examples: Sequence[str], lengths: Sequence[int], d_model: int, draws: int, *key: object
) -> Float[Tensor, "draw row d_model"]:
    """Gaussian directions that depend on the key and on the example, on nothing beside it."""
    parts = []
    for name, n in zip(examples, lengths, strict=True):
        source = torch.Generator().manual_seed(generator(*key, name).getrandbits(63))
        parts.append(torch.randn(draws, n, d_model, generator=source))
    return torch.cat(parts, dim=1)


def matched(delta: Rows, h: Rows, scaling: Scaling = "norm") -> Rows:
    """Directions as long as the states they push, token by token; zeros stay zeros.

    `norm`: δ ‖h‖ / ‖δ‖. `moments`: (δ − μ_δ) / σ_δ · σ_h + μ_h over the components of a token, so
    that mean and standard deviation are those of h, and with them the norm (Gu et al., 2025,
    arXiv:2506.16078).
    """
    still = delta.norm(dim=-1, keepdim=True) == 0
    if scaling == "norm":
        size = h.norm(dim=-1, keepdim=True) / delta.norm(dim=-1, keepdim=True).where(~still, 1.0)
        return (delta * size).where(~still, 0.0)
    spread = delta.std(-1, keepdim=True, correction=0).clamp_min(torch.finfo(delta.dtype).tiny)
    normal = (delta - delta.mean(-1, keepdim=True)) / spread
    moved = normal * h.std(-1, keepdim=True, correction=0) + h.mean(-1, keepdim=True)
    return moved.where(~still, 0.0)


def pushed(
    stream: Stream, keep: Keep, delta: Float[Tensor, "draw row d_model"]
) -> Float[Tensor, "sequence pos d_model"]:
    """The stream once for each push, the kept tokens moved by it: row c · batch + i is row i.

    Only kept tokens move, padding never. A stream of half precision rounds what is added to it.
    """
    copies = stream.repeat(len(delta), 1, 1)
    where = keep.repeat(len(delta), 1)
    copies[where] = (copies[where].float() + delta.flatten(0, 1).to(copies.device)).to(stream.dtype)
    return copies


def response_nll(read: ReadOut, batch: Batch, final: Stream) -> Float[Tensor, " batch"]:
    """Mean negative log-likelihood of each response (nats a token), prompt and padding left out.

    Args:
        read: the model's read-out.
        batch: whose responses.
        final: the stream after the last block.

    Raises:
        InvalidValueError: an example without response tokens.
    """
    kept_positions(batch, "response")
    batch = batch.to(final.device)
    scored = batch.scored
    nll = read.nll(final[:, :-1][scored], batch.targets[scored])
    totals = torch.zeros(scored.shape, dtype=nll.dtype, device=nll.device)
    return totals.masked_scatter(scored, nll).sum(1) / scored.sum(1)


def nll_gradients(lm: HookedLM, batch: Batch) -> Float[Tensor, "layer batch pos d_model"]:
    """∂ NLL(response) / ∂ h_l of each example, at every layer 0 … L and token, from one backward.

    Raises:
        InvalidValueError: an example without response tokens, or longer than the model's context.
        ModelError: the model's read-out is not known.
    """
    require_room(lm, batch)
    read = read_out(lm)
    with evaluating(lm.model), torch.enable_grad():
        start = {"resid_pre.0": lambda x, _: x.detach().requires_grad_()}
        with lm.intervene(start), lm.record("resid_pre", last(lm), grad=True) as acts:
            lm.stream(batch)
            layers = list(acts.values())
        total = response_nll(read, batch, layers[-1]).sum()
        return torch.stack(torch.autograd.grad(total, layers)).float()


@torch.no_grad()
def delta_nll(
    lm: HookedLM,
    batch: Batch,
    stream: Stream,
    layer: int,
    keep: Keep,
    delta: Float[Tensor, "draw row d_model"],
) -> Float[Tensor, "draw batch"]:
    """By how much each push of h_l makes each response less likely (nats a token).

    Args:
        lm: the model.
        batch: prompts with the responses scored.
        stream: h_l of a clean pass.
        layer: l, from 0 (the embeddings) to L.
        keep: which tokens are pushed.
        delta: the pushes.

    Raises:
        InvalidValueError: no such layer, or an example without response tokens.
    """
    require_layers(lm, layer)
    read, keep = read_out(lm), keep.to(stream.device)
    some = max(1, ROWS // len(batch))
    with evaluating(lm.model):
        clean = response_nll(read, batch, run_from(lm, batch, stream, layer))
        parts = []
        for part in delta.split(some):
            copies, moved = repeated(batch, len(part)), pushed(stream, keep, part)
            nll = response_nll(read, copies, run_from(lm, copies, moved, layer))
            parts.append(nll.view(len(part), -1) - clean)
    by_example = delta.split(keep.sum(1).tolist(), dim=1)
    still = torch.stack([(x == 0).flatten(1).all(1) for x in by_example], dim=1)
    return torch.cat(parts).float().cpu().where(~still.cpu(), 0.0)  # not a rounding error


def require_sizes(epsilons: Sequence[float]) -> None:
    """Refuse sizes that push nothing or push backwards.

    Raises:
        InvalidValueError: a size that is not above zero and finite, or none at all.
    """
    if not epsilons or not all(0 < x < float("inf") for x in epsilons):
        raise InvalidValueError(
            f"epsilon {', '.join(map(str, epsilons)) or '(none)'}: pushes are given as shares of "
            "the length of the states, above 0."
        )
