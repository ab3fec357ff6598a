"""Norm of the gradient of each response token's loss, by part of the model.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946, section 4: for one example with response y,

    n_k(part) = ‖∇_part −log p(y_k | x, y_<k)‖₂ .

The released code runs one backward pass a token, each with the gradients of all parameters. Here
one forward pass serves many tokens, their gradients at the layers' outputs come from one batched
vector-Jacobian product, and weight matrices are measured by their factors (`gradient_factors`), so
no gradient in the shape of a matrix is built. Vectors (norms' weights) are: they are small. So is,
with a warning, any parameter whose owner is not a linear layer, an embedding or a norm. A token's
loss does not depend on later tokens, so each forward pass stops at the last token it serves.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.activations import HookedLM, evaluating
from workbench.activations.engine import instead
from workbench.data import Batch
from workbench.errors import InvalidValueError, ModelError, WorkbenchWarning
from workbench.gradient_factors import (
    EMBED,
    HEAD,
    OTHER,
    TOTAL,
    Use,
    differentiable,
    gram,
    parts_of,
    recorded_uses,
    wide,
)
from workbench.readout import ReadOut, read_out
from workbench.states import require_room

TOKENS = 50
"""The paper's number of response tokens."""
CHUNK = 16
"""Tokens that share a forward pass; memory grows with it."""
UNBATCHED = ("vmap", "atching rule", "functorch")
"""Words by which torch says that an operation cannot be batched."""
Norms = dict[int, Tensor]
"""Squared norms, one a token, by the `id` of the parameter."""


@dataclass(frozen=True, eq=False)
class TokenGradients:
    """Gradient norms of the first response tokens of one example."""

    example: str
    parts: tuple[str, ...]
    """`embed`, `block.0`, ..., `head`, `total`; `other` before the total if something is left."""
    norms: Float[Tensor, "part token"]
    nll: Float[Tensor, " token"]
    """Loss of each token (nats)."""


def token_gradient_norms(
    model: nn.Module,
    batch: Batch,
    *,
    tokens: int = TOKENS,
    chunk: int = CHUNK,
    frozen: bool = False,
) -> list[TokenGradients]:
    """Gradient norms of each example's first response tokens. The model is left as it was.

    Args:
        model: any Hugging Face causal LM, plain or PEFT.
        batch: what is read, example by example, without padding.
        tokens: so many response tokens at most (K).
        chunk: at most so many tokens in one backward pass.
        frozen: also parameters that do not require gradients.

    Raises:
        InvalidValueError: no token or chunk asked for, or an example without response or longer
            than the model's context.
        ModelError: nothing requires gradients, a parameter is shared in a way that is not known, or
            a loss or gradient is not finite.
    """
    if tokens < 1 or chunk < 1:
        raise InvalidValueError(
            f"tokens and chunk must be at least 1, not {tokens} and {chunk}: gradients are taken "
            "of the losses of the first response tokens."
        )
    lm = HookedLM(model, check=False)
    require_room(lm, batch)
    read = read_out(lm)
    with evaluating(model), differentiable(model, frozen=frozen) as wanted:
        measured = _Measured(lm, read, wanted)
        return [
            measured.example(batch.rows([i]).to(lm.parts.device), tokens, chunk)
            for i in range(len(batch))
        ]


class _Measured:
    """A model whose gradients are measured, and where its parameters belong."""

    def __init__(self, lm: HookedLM, read: ReadOut, wanted: dict[str, nn.Parameter]):
        self.lm, self.read, self.wanted = lm, read, wanted
        self.places = parts_of(lm, wanted.values())
        blocks = [f"block.{i}" for i in range(lm.n_layers)]
        present = set(self.places.values())
        self.parts = (EMBED, *blocks, HEAD, *([OTHER] if OTHER in present else []))
        self.in_head = {id(p) for part in (read.norm, read.head) for p in part.parameters()}

    def example(self, one: Batch, tokens: int, chunk: int) -> TokenGradients:
        """The norms of one example."""
        at = one.scored[0].nonzero().flatten()[:tokens]
        if not len(at):
            raise InvalidValueError(
                f"example {one.examples[0]!r} has no response token that could have a loss."
            )
        norms, nll = zip(*(self._chunk(one, part) for part in at.split(chunk)), strict=True)
        found = TokenGradients(
            one.examples[0], (*self.parts, TOTAL), torch.cat(norms, dim=1), torch.cat(nll)
        )
        if not (torch.isfinite(found.norms).all() and torch.isfinite(found.nll).all()):
            raise ModelError(
                f"losses or gradients of example {found.example!r} are not finite. The weights "
                "hold NaN or infinity, or overflow: load the model anew, or in fp32."
            )
        return found

    def _chunk(
        self, one: Batch, at: Int[Tensor, " token"]
    ) -> tuple[Float[Tensor, "part token"], Float[Tensor, " token"]]:
        """Norms and losses of the tokens predicted at these positions."""
        stop = int(at[-1]) + 1
        prefix = Batch(one.input_ids[:, :stop], one.attention_mask[:, :stop],
                       one.response_mask[:, :stop], one.examples)  # fmt: skip
        values = list(self.wanted.values())
        with recorded_uses(self.lm.model, values) as uses, sdpa_kernel(SDPBackend.MATH):
            hidden = self.lm.stream(prefix, blocks=self.lm.n_layers)[0, at]
        squares, delta, nll, on_head = self._head(hidden.detach(), one.input_ids[0, at + 1])
        for parameter, square in self._stack(hidden, delta, uses, on_head).items():
            squares[parameter] = squares.get(parameter, 0.0) + square
        by_part: dict[str, Tensor] = defaultdict(lambda: torch.zeros_like(nll))
        for parameter, square in squares.items():
            by_part[self.places[parameter]] = by_part[self.places[parameter]] + square
        by_part[TOTAL] = torch.stack(list(by_part.values())).sum(0)
        norms = torch.stack([by_part[part] for part in (*self.parts, TOTAL)])
        return norms.clamp_min(0).sqrt().cpu(), nll.detach().cpu()

    def _head(
        self, hidden: Tensor, targets: Tensor
    ) -> tuple[Norms, Tensor, Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Final norm and head, where a token's loss depends on its own position alone.

        Returns:
            Squared norms, gradients at the residual stream, losses, and the factors of the head's
            weights.
        """
        hidden.requires_grad_()
        values = list(self.wanted.values())
        with instead((), ()):
            normed = self.read.norm(hidden)
            with recorded_uses(self.lm.model, values) as uses:
                logits = self.read(normed, normed=True)
        nll = nn.functional.cross_entropy(wide(logits), targets, reduction="none")
        outputs = [use.output for use in uses]
        delta_normed, *deltas = torch.autograd.grad(nll.sum(), [normed, *outputs])
        squares: Norms = {}
        factors: dict[int, tuple[Tensor, Tensor]] = {}
        for use, delta in zip(uses, map(wide, deltas), strict=True):
            own, bias = use.matrix, use.bias
            if own is not None and id(own) in self.places:
                factors[id(own)] = (wide(use.input), delta)
                squares[id(own)] = wide(use.input).square().sum(-1) * delta.square().sum(-1)
            if bias is not None and id(bias) in self.places:
                squares[id(bias)] = delta.square().sum(-1)
        inside = {n: p for n, p in self.wanted.items() if id(p) in self.in_head - squares.keys()}
        own_norm = set(map(id, self.read.norm.parameters()))
        if strange := [n for n, p in inside.items() if id(p) not in own_norm]:
            raise ModelError(f"{', '.join(strange)}: parts of the head of an unknown kind.")
        inputs = [hidden, *inside.values()]
        cotangents = torch.diag_embed(delta_normed.T).permute(1, 2, 0)
        through = _batched(normed, inputs, cotangents)
        delta = through[0].diagonal().T  # row k of cotangent k; the others are zero
        for p, gradient in zip(inside.values(), through[1:], strict=True):
            squares[id(p)] = wide(gradient).square().flatten(1).sum(1)
        return squares, delta, nll, factors

    def _stack(
        self,
        hidden: Float[Tensor, "token d_model"],
        delta: Float[Tensor, "token d_model"],
        uses: Sequence[Use],
        on_head: dict[int, tuple[Tensor, Tensor]],
    ) -> Norms:
        """Squared norms of embeddings and blocks; of a tied head what its embedding adds to it."""
        known = [use for use in uses if use.matrix is not None]
        covered = {id(p) for use in known for p in (use.matrix, use.bias) if p is not None}
        rest = {n: p for n, p in self.wanted.items() if id(p) not in covered | self.in_head}
        _warn_of_large(rest)
        inputs = [*(use.output for use in known), *rest.values()]
        cotangents = torch.diag_embed(delta.T).permute(1, 2, 0)
        found = _batched(hidden, inputs, cotangents)
        squares: Norms = {}
        biases: dict[int, Tensor] = {}
        by_weight: dict[int, list[tuple[Use, Tensor]]] = defaultdict(list)
        for use, raw in zip(known, found, strict=False):
            d = wide(raw).flatten(1, -2)
            if use.is_lookup:
                d = use.lookup_delta(d)
            if id(use.matrix) in self.places:
                by_weight[id(use.matrix)].append((use, d))
            if use.bias is not None and id(use.bias) in self.places:
                biases[id(use.bias)] = biases.get(id(use.bias), 0.0) + d.sum(1)
        squares |= {bias: summed.square().sum(1) for bias, summed in biases.items()}
        for weight, calls in by_weight.items():
            squares[weight] = _ghost(calls)
            if weight in on_head:
                squares[weight] = squares[weight] + 2 * _tied(calls, *on_head[weight])
        for p, gradient in zip(rest.values(), found[len(known) :], strict=True):
            squares[id(p)] = wide(gradient).square().flatten(1).sum(1)
        return squares


def _ghost(calls: Sequence[tuple[Use, Tensor]]) -> Float[Tensor, " token"]:
    """Squared norms of the gradient of one weight, however often the layer was called."""
    use = calls[0][0]
    if len({other.is_lookup for other, _ in calls}) > 1:
        raise ModelError(f"{type(use.module).__name__} shares its weight in an unknown way.")
    flat = [u.input.flatten() if u.is_lookup else u.input.flatten(0, -2) for u, _ in calls]
    x, delta = flat[0], calls[0][1]
    if len(calls) > 1:
        x, delta = torch.cat(flat), torch.cat([d for _, d in calls], dim=1)
    return ((delta @ delta.mT) * gram(x, x).to(delta.dtype)).sum((1, 2))


def _tied(calls: Sequence[tuple[Use, Tensor]], x: Tensor, delta: Tensor) -> Tensor:
    """⟨∂/∂W as embedding, ∂/∂W as head⟩ = Σ_s δ^logit[v_s] (h · δ^embed_s), one a token."""
    total = torch.zeros(len(x), dtype=delta.dtype, device=delta.device)
    for use, d in calls:
        if not use.is_lookup:
            raise ModelError("the head shares its weight with something that is no embedding.")
        total = total + (delta[:, use.input.flatten()] * torch.einsum("kd,ksd->ks", x, d)).sum(1)
    return total


def _batched(output: Tensor, inputs: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Vector-Jacobian products of many cotangents at once; one by one where vmap cannot."""
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    try:
        return list(
            torch.autograd.grad(output, inputs, cotangents, is_grads_batched=True, **options)
        )
    except RuntimeError as error:
        if not any(word in str(error) for word in UNBATCHED):
            raise
        warnings.warn(
            f"tokens go backward one by one, which is slower: {error!s:.200}",
            WorkbenchWarning,
            stacklevel=2,
        )
    each = [torch.autograd.grad(output, inputs, c, **options) for c in cotangents]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


def _warn_of_large(rest: dict[str, nn.Parameter]) -> None:
    large = [name for name, p in rest.items() if p.dim() > 1]
    if large:
        warnings.warn(
            f"{', '.join(large)}: of no kind whose gradient norm is known without the gradient, so "
            "that is built for each token. The norms are exact, but this takes memory.",
            WorkbenchWarning,
            stacklevel=2,
        )
