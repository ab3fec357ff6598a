"""What needs probabilities themselves, token by token: Jensen-Shannon, and the tokens that moved.

A second pass over the vocabulary, a slice at a time, once the first has found each row's log Σ e^z.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from workbench.final_states import FinalStates, Tiles
from workbench.vocabulary_pass import CHUNK, Compared, blocks, compare, parts

LogProbs = Callable[[slice], Float[Tensor, "row part"]]


@dataclass(frozen=True, eq=False)
class Movers:
    """The tokens of each row whose probability differs most, by |p − q|."""

    tokens: Int[Tensor, "row top"]
    p: Float[Tensor, "row top"]
    q: Float[Tensor, "row top"]
    contribution: Float[Tensor, "row top"]
    """Terms p log(p/q) of KL(p ‖ q); they may be negative (nats)."""

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Everything, one tensor a column."""
        return self.tokens, self.p, self.q, self.contribution


@torch.no_grad()
def jensen_shannon(
    p: FinalStates, q: FinalStates, seen: Compared, *, chunk: int = CHUNK
) -> Float[Tensor, " row"]:
    """½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2, in [0, log 2] nats: a second pass.

    Lin, IEEE Transactions on Information Theory 37 (1991). With d = log p − log q, log p − log m
    is log 2 − log(1 + e^(−d)), which needs no sum of p and q.
    """
    two = torch.tensor(2.0).log()
    found = []
    for rows, (one, other) in _second(p, q, seen, chunk):
        total = torch.zeros(rows.stop - rows.start, dtype=torch.float64)
        for lp, lq in ((one(part), other(part)) for part in parts(p.vocabulary, chunk)):
            d = lp - lq
            terms = lp.exp() * (two - softplus(-d)) + lq.exp() * (two - softplus(d))
            total += terms.sum(1).double().cpu() / 2
        found.append(total)
    return torch.cat(found).clamp(0, log(2))


@torch.no_grad()
def movers(p: FinalStates, q: FinalStates, top: int, *, chunk: int = CHUNK) -> Movers:
    """The tokens that moved most at each position: two passes."""
    found = []
    for _, (one, other) in _second(p, q, compare(p, q, chunk=chunk), chunk):
        best: tuple[Tensor, ...] = ()
        for part in parts(p.vocabulary, chunk):
            lp, lq = one(part), other(part)
            ids = torch.arange(part.start, part.stop).expand(lp.shape)
            here = (ids, lp.cpu(), lq.cpu())
            best = here if not best else tuple(map(_beside, best, here))
            moved = (best[1].exp() - best[2].exp()).abs()
            order = moved.topk(min(top, moved.shape[1]), dim=1).indices
            best = tuple(x.gather(1, order) for x in best)
        found.append(best)
    tokens, lp, lq = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Movers(tokens, lp.exp(), lq.exp(), lp.exp() * (lp - lq))


def _beside(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y], dim=1)


def _second(
    p: FinalStates, q: FinalStates, seen: Compared, chunk: int
) -> Iterator[tuple[slice, tuple[LogProbs, LogProbs]]]:
    """Rows, and how to read log p and log q there (on the device of p)."""
    for rows, tiles in blocks(p, chunk):
        others = q.tiles(rows.start, rows.stop)
        device = tiles.rows.device
        lse = [
            x.log_sum_exp[rows, None].to(device=device, dtype=torch.float32)
            for x in (seen.p, seen.q)
        ]

        def one(part: slice, tiles: Tiles = tiles, lse: Tensor = lse[0]) -> Tensor:
            return tiles(part.start, part.stop).to(lse.device) - lse

        def other(part: slice, tiles: Tiles = others, lse: Tensor = lse[1]) -> Tensor:
            return tiles(part.start, part.stop).to(lse.device) - lse

        yield rows, (one, other)
