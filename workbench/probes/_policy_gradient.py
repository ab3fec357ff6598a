"""Gradient and Jacobian of a policy in a declared part of its parameters, from sampled answers.

Logits are z = s·W·h, with h the normed final state, W the head and s the family's scale (where they
are capped, the norms below are upper bounds). In W alone, ∂z/∂W = s·I ⊗ hᵀ has the one singular
value s·‖h‖. With the parameters φ of the last block and final norm, A = ∂h/∂φ, the squared spectral
norm is s²(‖h‖² + λ_max(W A Aᵀ Wᵀ)): exact again, by d_model vector-Jacobian products a position.
W is the matrix the head multiplies by; where it is tied, its other use as embedding does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.activations import HookedLM, evaluating
from workbench.activations.engine import instead
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.losses import entropy
from workbench.policy_bound import gini
from workbench.readout import read_out

Scope = Literal["head", "last_block"]
"""`last_block`: the head's matrix, the final norm and all parameters of the last block."""
LARGE, TRIED = 100.0, 5
"""Size and number of the vectors that a norm is tried on; at this size its ε does not count."""
ROOM = 2**29
"""Most numbers that a position's Jacobian may hold."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the sampled answers to one prompt say of the policy there."""

    entropy: tuple[Float[Tensor, "..."], ...]
    """Of each rollout, by response position (nats)."""
    gini: tuple[Float[Tensor, "..."], ...]
    norm: float
    """Largest spectral norm of ∂logits/∂θ over the positions."""
    gradient: Float[Tensor, " parameter"]
    """Unbiased estimate of the prompt's ∇J."""

    @property
    def gini_sum(self) -> float:
        """Estimate of Σ_t E[1 − ‖π_t‖²]."""
        return sum(float(x.sum()) for x in self.gini) / len(self.gini)

    @property
    def entropy_sum(self) -> float:
        """Estimate of Σ_t E[H_t]."""
        return sum(float(x.sum()) for x in self.entropy) / len(self.entropy)


class Declared:
    """A model's logits as a function of the declared parameters.

    Raises:
        InvalidValueError: the last block is too large for its Jacobian to be kept.
    """

    def __init__(self, model: nn.Module, scope: Scope):
        self.lm = HookedLM(model, check=False)
        self.read = read_out(self.lm)
        self.parameters = _below_head(self.lm) if scope == "last_block" else []
        self.width = self.lm.parts.base.get_output_embeddings().weight.shape[-1]
        size = self.width * sum(p.numel() for p in self.parameters)
        if size > ROOM:
            raise InvalidValueError(
                f"the Jacobian of the last block has {size:.2g} numbers a position, more than "
                f"{ROOM:.2g}. Set parameters to `head`."
            )

    def norm_bound(self) -> float | None:
        """What the norm of ∂logits/∂θ cannot exceed after any prefix, whether it is drawn or not.

        Returns:
            None for more than the head, or after a final norm of a kind that is not known.
        """
        longest = None if self.parameters else longest_output(self.read.norm, self.width)
        return None if longest is None else abs(self.read.scale) * longest

    def measure(self, batch: Batch, weights: Float[Tensor, " row"]) -> Answers:
        """Look at the rollouts of one prompt.

        Args:
            batch: the rollouts.
            weights: what each rollout's ∇ log π counts in the gradient.
        """
        with evaluating(self.lm.model), _wanted(self.parameters):
            hidden, targets = self._states(batch)
            head = _matrix(self.read.head, hidden.shape[-1])
            logits = self._logits(hidden, head)
            lengths = batch.scored.sum(1)
            weight = weights.repeat_interleave(lengths).to(logits)
            chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            gradient = torch.autograd.grad((weight * chosen).sum(), [head, *self.parameters])
            norm = self._norm(batch, hidden.detach(), head.detach())
        parts = lengths.tolist()
        return Answers(
            entropy(logits.detach()).cpu().split(parts),
            gini(logits.detach()).cpu().split(parts),
            norm,
            torch.cat([x.flatten().float().cpu() for x in gradient]),
        )

    def _states(self, batch: Batch) -> tuple[Float[Tensor, "pos d_model"], Int[Tensor, " pos"]]:
        """Normed final states where a token is predicted, and those tokens."""
        stream = self.lm.stream(batch)[:, :-1].float()
        scored = batch.scored.to(stream.device)
        return stream[scored], batch.targets.to(stream.device)[scored]

    def _logits(self, hidden: Tensor, head: Tensor) -> Float[Tensor, "pos vocab"]:
        logits = self.read.scale * (hidden @ head + _offset(self.read.head, hidden.shape[-1]))
        cap = self.read.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _norm(self, batch: Batch, hidden: Float[Tensor, "pos d_model"], head: Tensor) -> float:
        """The largest spectral norm of all positions."""
        squares = hidden.square().sum(-1)
        if self.parameters:
            values, vectors = torch.linalg.eigh(head @ head.T)
            root = vectors * values.clamp_min(0).sqrt()
            grams = torch.stack([root.T @ gram @ root for gram in self._grams(batch)])
            squares = squares + torch.linalg.eigvalsh(grams)[:, -1].clamp_min(0)
        return abs(self.read.scale) * float(squares.max().sqrt())

    def _grams(self, batch: Batch) -> Iterator[Float[Tensor, "d_model d_model"]]:
        """A·Aᵀ of every state, row by row: a row's backward need not cross the others."""
        for i in range(len(batch)):
            with sdpa_kernel(SDPBackend.MATH):  # the others have no batched backward
                states, _ = self._states(batch.rows([i]))
                yield from map(self._gram, states)

    def _gram(self, state: Float[Tensor, " d_model"]) -> Float[Tensor, "d_model d_model"]:
        """A·Aᵀ of one state, A its Jacobian in the parameters below the head."""
        rows = torch.autograd.grad(
            state,
            self.parameters,
            torch.eye(len(state), device=state.device),
            is_grads_batched=True,
            retain_graph=True,
        )
        flat = [x.flatten(1).float() for x in rows]
        return sum((x @ x.T for x in flat), torch.zeros_like(flat[0] @ flat[0].T))


@torch.no_grad()
def longest_output(norm: nn.Module, width: int) -> float | None:
    """The most ‖norm(x)‖ can be for any x: √d·max|w| + ‖b‖, with gains w and offsets b.

    Whatever a layer norm or RMS norm divides by, what it then scales is at most √d long. Gains and
    offsets are read off its outputs, as families keep them differently (some add 1 to the weight);
    a module whose outputs are not of this form gives None.
    """
    given = next(norm.parameters(), torch.zeros(1))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(TRIED, width, generator=draw) * torch.arange(1, TRIED + 1)[:, None]
    x[0] = x[0].sign()  # gains are read where no entry is small
    x = (LARGE * x).to(given)

    def applied(at: Tensor) -> Tensor:
        return norm(at).float().reshape(at.shape)

    with instead((), ()):
        offset, found = applied(torch.zeros_like(x[:1]))[0], applied(x)
    slack = 8 * torch.finfo(given.dtype).eps
    for unit in (nn.functional.rms_norm, nn.functional.layer_norm):
        of_unit_size = unit(x.float(), (width,))
        gains = (found[0] - offset) / of_unit_size[0]
        expected = gains * of_unit_size + offset
        if (expected - found).norm() <= max(1e-4, slack) * found.norm():
            most = width**0.5 * float(gains.abs().max()) + float(offset.norm())
            return (1 + slack) * most
    return None


def _below_head(lm: HookedLM) -> list[nn.Parameter]:
    modules = [lm.parts.blocks[-1], lm.parts.final_norm]
    found = {id(p): p for m in modules if m is not None for p in m.parameters()}
    return list(found.values())


@contextmanager
def _wanted(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Frozen parameters take part, too; afterwards each is as it was."""
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for p, wanted in zip(parameters, before, strict=True):
            p.requires_grad_(wanted)


@torch.no_grad()
def _offset(head: nn.Module, width: int) -> Float[Tensor, " vocab"]:
    """What the head adds: its bias."""
    given = next(head.parameters())
    return head(torch.zeros(width, device=given.device, dtype=given.dtype)).float()


def _matrix(head: nn.Module, width: int) -> Float[Tensor, "d_model vocab"]:
    """The matrix the head multiplies by (an adapter's part included), as a leaf of the graph."""
    given = next(head.parameters())
    with torch.no_grad():
        shown = head(torch.eye(width, device=given.device, dtype=given.dtype)).float()
        matrix = shown - _offset(head, width)
    return matrix.requires_grad_()
