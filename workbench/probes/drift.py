"""Harmful embedding drift (HED): how far training moves the hidden states, layer by layer.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109, figure 2: the L2 distance between the hidden
embeddings of the aligned and of the fine-tuned model on the same data. Measured on benign text too:
only what exceeds the benign drift is specific to harm.

The released code reports Σ over batches and layers of ‖A_ft − A_ref‖²_F. That is `sum_sq` at
`attn_module_out` and all positions, added up over examples and layers, but for one thing: it counts
padding, so its numbers depend on which texts share a batch. Here padding never counts; the other
measures are means over tokens, which do not grow with the text either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.probes._base import At, StateProbe
from workbench.rows import EmbeddingDrift, Row
from workbench.states import States, StatesOf


@dataclass(frozen=True, kw_only=True)
class Drift(StateProbe):
    """How far the hidden states of each layer moved from the reference's, on the same tokens.

    Measures: `l2` = ‖h − h_ref‖, `relative_l2` = ‖h − h_ref‖ / ‖h_ref‖, `cosine_distance` =
    1 − cos(h, h_ref), each a mean over the chosen tokens, and, if asked for, `sum_sq` =
    Σ ‖h − h_ref‖² over them, one value a layer. The paper's site is `attn_module_out`.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (EmbeddingDrift,)

    sites: tuple[str, ...] = ("resid_post", "attn_module_out")
    """Where in each block the hidden states are read; the paper's is `attn_module_out`."""
    sums: bool = False
    """Write `sum_sq`, too: what the released code adds up. It grows with the number of tokens."""

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Compare with these states."""

        def compare(now: StatesOf, at: At) -> list[Row]:
            return [
                EmbeddingDrift(
                    stage=at.stage,
                    step=at.step,
                    reference=at.reference,
                    group=group,  # type: ignore[arg-type]
                    example=example,
                    site=site,
                    positions=self.positions,
                    measure=measure,  # type: ignore[arg-type]
                    values=values[:, i].tolist(),
                )
                for (group, site), states in now.items()
                for measure, values in distances(states, then[group, site]).items()
                if self.sums or measure != "sum_sq"
                for i, example in enumerate(states.examples)
            ]

        return compare


def distances(now: States, then: States) -> dict[str, Float[Tensor, "layer example"]]:
    """Distances between two checkpoints' states: means over an example's tokens, and `sum_sq`.

    Raises:
        InvalidValueError: states of other tokens or another place.
    """
    now.require_like(then)
    found = by_token(now.values, then.values)
    means = {name: _over_tokens(x, now.lengths, torch.mean) for name, x in found.items()}
    return means | {"sum_sq": _over_tokens(found["l2"].square(), now.lengths, torch.sum)}


def by_token(
    now: Float[Tensor, "layer row d_model"], then: Float[Tensor, "layer row d_model"]
) -> dict[str, Float[Tensor, "layer row"]]:
    """The same distances, token by token."""
    moved, size = (now - then).norm(dim=-1), then.norm(dim=-1)
    cosine = torch.cosine_similarity(now, then, dim=-1).clamp(-1, 1)
    same = (now == then).all(-1)  # rounding must not turn "did not move" into a small distance
    return {
        "l2": moved,
        "relative_l2": moved / size.clamp_min(torch.finfo(size.dtype).tiny),
        "cosine_distance": torch.where(same, 0.0, 1 - cosine),
    }


def _over_tokens(
    x: Float[Tensor, "layer row"],
    lengths: tuple[int, ...],
    reduce: Callable[..., Tensor],
) -> Float[Tensor, "layer example"]:
    return torch.stack([reduce(part, dim=1) for part in x.split(list(lengths), dim=1)], dim=1)
