"""Inner products of the gradients of single examples, without keeping the gradients.

    G_ij = ⟨∇_θ ℓ_i, ∇_θ ℓ_j⟩,   ℓ_i = mean −log p(y_t | x, y_<t) over the response tokens of i.

Everything that is asked of groups of examples (norms, angles, means, variances, clusters) follows
from this small matrix. One backward pass gives the gradients at the layers' outputs; a weight
matrix then adds to G what its factors say (`gradient_factors`), or, where examples have more tokens
than the matrix has columns, what the gradients of this one matrix say, which is cheaper then.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from workbench.activations import HookedLM, evaluating
from workbench.activations.engine import instead
from workbench.data import Batch
from workbench.errors import InvalidValueError, ModelError
from workbench.gradient_factors import Use, differentiable, gram, recorded_uses, wide
from workbench.readout import read_out
from workbench.states import require_room

MICRO_BATCH = 8
"""Examples that go through the model at a time."""


@dataclass(frozen=True, eq=False)
class Factors:
    """One weight's gradients Σ_t δ_t x_tᵀ of several examples, row by row."""

    x: Tensor
    """Inputs `[row, d_in]`, or token ids `[row]`."""
    delta: Float[Tensor, "row d_out"]
    example: Int[Tensor, " row"]
    """Which example each row belongs to."""


def gradient_gram(
    model: nn.Module, batches: Sequence[Batch], *, frozen: bool = False
) -> Float[Tensor, "example example"]:
    """Inner products of all examples' gradients, in fp64. The model is left as it was.

    Args:
        model: any Hugging Face causal LM, plain or PEFT.
        batches: the examples, in the order of rows and columns.
        frozen: also parameters that do not require gradients.

    Raises:
        InvalidValueError: no examples, or one without response or longer than the model's context.
        ModelError: nothing requires gradients, a parameter is used in a way that is not known, or a
            gradient is not finite.
    """
    parts = [part for batch in batches for part in batch.split(MICRO_BATCH)]
    if not parts:
        raise InvalidValueError("there are no examples whose gradients could be compared.")
    for part in parts:
        for name, scored in zip(part.examples, part.scored, strict=True):
            if not scored.any():
                raise InvalidValueError(f"example {name!r} has no response, so it has no loss.")
    lm = HookedLM(model, check=False)
    for batch in batches:
        require_room(lm, batch)
    read_out(lm)
    collected = _Collected(sum(map(len, parts)))
    with evaluating(model), differentiable(model, frozen=frozen) as wanted:
        start = 0
        for part in parts:
            collected.add(lm, part.to(lm.parts.device), start, wanted)
            start += len(part)
    found = collected.gram()
    if not torch.isfinite(found).all():
        bad = (~torch.isfinite(found.diagonal())).nonzero().flatten().tolist()
        names = [name for part in parts for name in part.examples]
        raise ModelError(
            f"the gradients of {', '.join(names[i] for i in bad[:4])} are not finite. The weights "
            "hold NaN or infinity, or overflow: load the model anew, or in fp32."
        )
    return found


class _Collected:
    """Factors and small gradients of all examples, by the `id` of the parameter."""

    def __init__(self, n: int):
        self.n = n
        self.linear: dict[int, list[Factors]] = defaultdict(list)
        self.lookups: dict[int, list[Factors]] = defaultdict(list)
        self.whole: dict[int, Tensor] = {}
        """Gradients themselves, `[example, size]`: of vectors, and of what has no factors."""

    def add(
        self, lm: HookedLM, part: Batch, start: int, wanted: Mapping[str, nn.Parameter]
    ) -> None:
        """One micro-batch: forward, backward to the layers' outputs, and what these give."""
        read, values = read_out(lm), list(wanted.values())
        of, _ = part.scored.nonzero(as_tuple=True)
        with recorded_uses(lm.model, values) as below:
            hidden = lm.stream(part, blocks=lm.n_layers)[:, :-1][part.scored]
        with instead((), ()), recorded_uses(lm.model, values) as above:
            logits = read(hidden)
        targets = part.targets[part.scored]
        nll = nn.functional.cross_entropy(wide(logits), targets, reduction="none")
        total = (nll / part.scored.sum(1)[of]).sum()
        uses = [*below, *above]
        deltas = torch.autograd.grad(
            total, [use.output for use in uses], allow_unused=True, materialize_grads=True
        )
        pos = torch.arange(len(part), device=of.device)[:, None].expand_as(part.input_ids)
        seen: set[int] = set()
        for i, (use, delta) in enumerate(zip(uses, deltas, strict=True)):
            example = (of if i >= len(below) else pos) + start
            seen |= self._one(use, wide(delta), example, set(map(id, values)))
        if lost := [name for name, p in wanted.items() if id(p) not in seen]:
            raise ModelError(
                f"{', '.join(lost[:4])}: owned by a module that is not called with one tensor, so "
                "its gradients of single examples are not known. Freeze these parameters."
            )

    def _one(self, use: Use, delta: Tensor, example: Tensor, wanted: set[int]) -> set[int]:
        """What one call of one module adds; the parameters it accounts for."""
        matrix, bias, rows = use.matrix, use.bias, example.flatten()
        if matrix is None:
            own = {k: p for k, p in use.module.named_parameters(recurse=False) if id(p) in wanted}
            first = example if example.dim() == 1 else example[:, 0]
            for name, gradients in _by_call(use, delta, own, len(first)).items():
                self._add_whole(own[name], gradients, first)
            return {id(p) for p in own.values()}
        flat = delta.flatten(0, -2)
        if bias is not None and id(bias) in wanted:
            self._add_whole(bias, flat, rows)
        if id(matrix) in wanted:
            if use.is_lookup:
                x, flat, kind = use.input.flatten(), use.lookup_delta(flat), self.lookups
            else:
                x, kind = wide(use.input).flatten(0, -2), self.linear
            keep = flat.any(1)  # padding, and what no loss depends on, has no gradient
            kind[id(matrix)].append(Factors(x[keep], flat[keep], rows[keep]))
        return {id(p) for p in (matrix, bias) if p is not None}

    def _add_whole(self, p: nn.Parameter, gradients: Tensor, example: Tensor) -> None:
        """Sum gradients, a row each, into the examples they are of."""
        flat = gradients.flatten(1)
        sums = self.whole.setdefault(id(p), flat.new_zeros(self.n, flat.shape[1]))
        sums.index_add_(0, example, flat)

    def gram(self) -> Float[Tensor, "example example"]:
        """The sum over all parameters."""
        first = next(iter(self.whole.values()), None)
        total = torch.zeros(self.n, self.n, dtype=torch.float64)
        if first is not None:
            total = total.to(first.device)
        for gradients in self.whole.values():
            total = total + gradients.double() @ gradients.double().T
        linear = {weight: _joined(parts) for weight, parts in self.linear.items()}
        lookups = {weight: _joined(parts) for weight, parts in self.lookups.items()}
        for one in linear.values():
            total = total.to(one.delta.device) + _of_matrix(one, self.n)
        for weight, one in lookups.items():
            total = total.to(one.delta.device) + _summed(
                gram(one.x, one.x) * gram(one.delta, one.delta), one, one, self.n
            )
            if weight in linear:  # a tied head: its rows are the tokens, as the embedding's are
                head = linear[weight]
                cross = gram(one.delta, head.x) * head.delta[:, one.x].T
                mixed = _summed(cross, one, head, self.n)
                total = total + mixed + mixed.T
        return (total + total.T).cpu() / 2


def _by_call(
    use: Use, delta: Tensor, own: dict[str, nn.Parameter], calls: int
) -> dict[str, Tensor]:
    """Gradients of a small module's parameters, one for each row of its first axis: exact."""
    if not own:
        return {}
    if use.input.shape[0] != calls:
        raise ModelError(
            f"{type(use.module).__name__} does not see examples apart ({tuple(use.input.shape)}), "
            "so its gradients of single examples are not known. Freeze its parameters."
        )

    def one(x: Tensor, d: Tensor) -> Any:
        def call(p: dict[str, Tensor]) -> Tensor:
            return functional_call(use.module, p, (x[None],))

        pull = vjp(call, dict(own))[1]
        return pull(d[None].to(use.output.dtype))[0]

    return {name: wide(g) for name, g in vmap(one)(use.input, delta).items()}


def _joined(parts: Sequence[Factors]) -> Factors:
    return Factors(
        torch.cat([p.x for p in parts]),
        torch.cat([p.delta for p in parts]),
        torch.cat([p.example for p in parts]),
    )


def _of_matrix(one: Factors, n: int) -> Float[Tensor, "example example"]:
    """What one weight adds: by its factors, or by its gradients, whichever takes less work."""
    rows, (d_in, d_out) = len(one.x), (one.x.shape[1], one.delta.shape[1])
    if rows * rows * (d_in + d_out) <= (rows + n * n) * d_in * d_out:
        return _summed(gram(one.x, one.x) * gram(one.delta, one.delta), one, one, n)
    gradients = torch.stack(
        [one.delta[one.example == i].T @ one.x[one.example == i] for i in range(n)]
    ).flatten(1)
    return (gradients @ gradients.T).double()


def _summed(
    products: Float[Tensor, "s t"], one: Factors, other: Factors, n: int
) -> Float[Tensor, "example example"]:
    """Sums of products of tokens over the examples that they belong to."""
    wide_products = products.double()
    rows = wide_products.new_zeros(n, products.shape[1]).index_add_(0, one.example, wide_products)
    return rows.new_zeros(n, n).index_add_(0, other.example, rows.T).T
