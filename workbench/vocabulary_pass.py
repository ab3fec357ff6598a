"""Distributions over a vocabulary, seen a slice at a time: one pass tells all about two of them.

Of logits z only a tile (some rows × some tokens) exists at any time. For each row run along, in the
manner of an online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867),

    m = max z,   s = Σ e^(z−m),   t = Σ e^(z−m) (z−m),   g = Σ e^(2(z−m)),   a = Σ e^(z−m) (z−z')

where z' are the other model's logits of the same tokens, and a new maximum rescales all of them.
Then log Σ e^z = m + log s, H = log s − t/s, Σ p² = g/s², KL(p ‖ q) = a/s − lse_p + lse_q (nats).
What needs p and q themselves takes a second pass (`vocabulary_terms`).

Tiles are fp32, running sums fp64. KL is resolved to about 1e-6 nats: it is a difference of numbers
of the size of log V. Of a distribution with itself it is 0 exactly, as both sides are the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import InvalidValueError
from workbench.final_states import FinalStates, Tiles, sliceable

CHUNK = 4096
"""Tokens of a tile."""
TILES = {"cpu": 2**20, "cuda": 2**26}
"""Logits of a tile, by device: 4 MiB is about what a core's cache holds; a GPU wants more work."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """What the pass tells of one distribution a row."""

    log_sum_exp: Float[Tensor, " row"]
    entropy: Float[Tensor, " row"]
    """H = −Σ p log p, in [0, log V] (nats)."""
    gini: Float[Tensor, " row"]
    """1 − Σ p², the probability that two draws differ; at most H."""
    nll: Float[Tensor, " row"]
    """−log p of the token that follows (nats)."""
    mass: Float[Tensor, " row"]
    """Probability of the chosen tokens together."""
    rank: Int[Tensor, " row"] | None = None
    """How many tokens are likelier than the one that follows, if asked for."""
    best: Int[Tensor, " row"] | None = None
    """The likeliest token, if asked for."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Two distributions a row, and how far they are apart (nats)."""

    p: Distribution
    q: Distribution
    forward_kl: Float[Tensor, " row"]
    """KL(p ‖ q)."""
    reverse_kl: Float[Tensor, " row"]
    """KL(q ‖ p)."""


@torch.no_grad()
def describe(
    p: FinalStates,
    chosen: Int[Tensor, " chosen"] | None = None,
    *,
    chunk: int = CHUNK,
    ranked: bool = False,
) -> Distribution:
    """One pass over one model's distributions.

    Args:
        p: its states and head.
        chosen: tokens whose probability is summed in `mass`.
        chunk: tokens of a tile; changes nothing but time and memory.
        ranked: find rank and likeliest token, too (a fifth more time).
    """
    found = []
    for rows, tiles in blocks(p, chunk):
        running = _Running(tiles, p.targets[rows], chosen, ranked)
        for part in parts(p.vocabulary, chunk):
            running.add(tiles(part.start, part.stop), part)
        found.append(running.result())
    return _joined(found)


@torch.no_grad()
def compare(
    p: FinalStates,
    q: FinalStates,
    chosen: Int[Tensor, " chosen"] | None = None,
    *,
    chunk: int = CHUNK,
    ranked: bool = False,
) -> Compared:
    """One pass over two models' distributions at the same positions; arguments as in `describe`.

    Raises:
        InvalidValueError: states of other texts, or vocabularies of different sizes.
    """
    _require_alike(p, q)
    found = []
    for rows, tiles in blocks(p, chunk):
        others = q.tiles(rows.start, rows.stop)
        one, two = (_Running(t, p.targets[rows], chosen, ranked) for t in (tiles, others))
        for part in parts(p.vocabulary, chunk):
            z, w = tiles(part.start, part.stop), others(part.start, part.stop)
            moved = z - w.to(z.device)
            one.add(z, part, moved)
            two.add(w, part, moved.to(w.device))
        found.append((one.result(), two.result(), one.difference(), two.difference()))
    first, second = _joined([x[0] for x in found]), _joined([x[1] for x in found])
    gap = first.log_sum_exp - second.log_sum_exp
    forward = torch.cat([x[2] for x in found]) - gap
    reverse = gap - torch.cat([x[3] for x in found])
    return Compared(first, second, forward.clamp_min(0), reverse.clamp_min(0))


class _Running:
    """Sums over the tiles seen so far, weighted by e^(z − m), one row beside the other."""

    def __init__(self, tiles: Tiles, targets: Tensor, chosen: Tensor | None, ranked: bool):
        self.own, self.targets = tiles.at(targets), targets.to(tiles.rows.device)
        self.chosen = None if chosen is None else chosen.to(self.own.device)
        self.top = torch.full_like(self.own, -1e30)  # finite: it is scaled away at the first tile
        zero = torch.zeros_like(self.own, dtype=torch.float64)
        self.s, self.t, self.g, self.a, self.mass = (zero.clone() for _ in range(5))
        self.ranked = ranked
        self.rank, self.best = (torch.zeros_like(self.targets) for _ in range(2))

    def add(self, z: Tensor, part: slice, moved: Tensor | None = None) -> None:
        """A tile of logits; `moved` is its difference from the other model's."""
        if self.ranked:
            self._rank(z, part)
        top = torch.maximum(self.top, z.amax(1))
        gap = (self.top - top).double()
        self.top, shrink = top, gap.exp()
        x = z - top[:, None]
        e = x.exp()
        self.t = shrink * (self.t + gap * self.s) + _dot(e, x)
        self.g = shrink**2 * self.g + _dot(e, e)
        self.s = shrink * self.s + e.sum(1)
        if moved is not None:
            self.a = shrink * self.a + _dot(e, moved)
        if self.chosen is not None:
            inside = self.chosen[(self.chosen >= part.start) & (self.chosen < part.stop)]
            self.mass = shrink * self.mass + e[:, inside - part.start].sum(1)

    def _rank(self, z: Tensor, part: slice) -> None:
        """Count likelier tokens, but never the token itself, whose logit may be rounded apart."""
        highest, at = z.max(1)
        self.best = torch.where(highest > self.top, at + part.start, self.best)
        above = z > self.own[:, None]
        inside = (self.targets >= part.start) & (self.targets < part.stop)
        place = (self.targets - part.start).clamp(0, z.shape[1] - 1)
        itself = above.gather(1, place[:, None])[:, 0] & inside
        self.rank += above.sum(1) - itself.long()

    def difference(self) -> Tensor:
        """Mean difference of the logits under this distribution."""
        return (self.a / self.s).cpu()

    def result(self) -> Distribution:
        """What the sums say."""
        lse = self.top.double() + self.s.log()
        parts = (
            lse,
            (self.s.log() - self.t / self.s).clamp_min(0),
            (1 - self.g / self.s**2).clamp_min(0),
            (lse - self.own).clamp_min(0),
            self.mass / self.s,
            *((self.rank, self.best) if self.ranked else ()),
        )
        return Distribution(*(x.cpu() for x in parts))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1)


def _joined(parts: list[Distribution]) -> Distribution:
    names = [f.name for f in fields(Distribution) if getattr(parts[0], f.name) is not None]
    return Distribution(*(torch.cat([getattr(x, name) for x in parts]) for name in names))


def blocks(p: FinalStates, chunk: int) -> Iterator[tuple[slice, Tiles]]:
    """Rows that make a tile together, and their logits.

    Raises:
        InvalidValueError: a tile of no token.
    """
    if chunk < 1:
        raise InvalidValueError(f"a chunk has at least one token, not {chunk}.")
    width = min(chunk, p.vocabulary) if sliceable(p.head) else p.vocabulary
    device = next(p.head.head.parameters()).device.type
    size = max(1, TILES.get(device, TILES["cuda"]) // width)
    for start in range(0, len(p.values), size):
        rows = slice(start, min(start + size, len(p.values)))
        yield rows, p.tiles(rows.start, rows.stop)


def parts(vocabulary: int, chunk: int) -> Iterator[slice]:
    """Slices of the vocabulary, one a tile."""
    for start in range(0, vocabulary, chunk):
        yield slice(start, min(start + chunk, vocabulary))


def _require_alike(p: FinalStates, q: FinalStates) -> None:
    if p.vocabulary != q.vocabulary:
        raise InvalidValueError(
            f"the heads tell {p.vocabulary} and {q.vocabulary} tokens apart, so there is no KL "
            "between them. Give two models of one family, or bring both to one size with "
            "model.resize_token_embeddings."
        )
    if p.examples != q.examples or not torch.equal(p.targets, q.targets):
        raise InvalidValueError(
            f"these are states of different texts ({', '.join(p.examples):.80} and "
            f"{', '.join(q.examples):.80}); two models are compared on the same tokens."
        )
