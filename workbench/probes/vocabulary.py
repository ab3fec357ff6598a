"""Per-token KL divergence: at which response positions two checkpoints disagree.

Qi et al., "Safety alignment should be made more than just a few tokens deep", ICLR 2025,
arXiv:2406.05946: KL(aligned ‖ base) on harmful answers is spent on the first few tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.losses import kl_divergence
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.rows import Row, TokenKL


@dataclass(frozen=True, kw_only=True)
class VocabularyPass(Probe):
    """KL_k = Σ_v p(v|x,y_<k) log(p/q) at every response position k of fixed answers y, in nats."""

    writes: ClassVar[tuple[type[Row], ...]] = (TokenKL,)

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Compare with this reference."""
        if reference is None:
            raise ValueError("KL needs a reference")

        def measure(model: nn.Module, at: At) -> list[Row]:
            rows: list[Row] = []
            for group in panel.groups:
                batch = panel.batch(group)
                p, q = (response_logits(m, batch) for m in (model, reference))
                values = kl_divergence(p, q).split(batch.scored.sum(-1).tolist())
                rows += [
                    TokenKL(
                        stage=at.stage,
                        step=at.step,
                        reference=at.reference,
                        group=group,
                        example=example,
                        measure="forward_kl",
                        values=row.tolist(),
                    )
                    for example, row in zip(batch.examples, values, strict=True)
                ]
            return rows

        return measure


@torch.no_grad()
def response_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "scored vocab"]:
    """Logits at the positions that predict a response token, row after row, in fp32."""
    with evaluating(model):
        logits = HookedLM(model, check=False)(batch).logits[:, :-1]
    return logits[batch.scored.to(logits.device)].float().cpu()


def budget_share(values: list[list[float]], first: int) -> float:
    """Share of the KL budget spent on the first response tokens, over all examples together.

    >>> budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], first=1)
    0.8
    """
    total = sum(map(sum, values))
    return sum(sum(row[:first]) for row in values) / total if total > 0 else float("nan")
