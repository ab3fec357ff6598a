"""Per-token KL divergence: at which response positions two checkpoints disagree.

Qi et al., "Safety alignment should be made more than just a few tokens deep", ICLR 2025,
arXiv:2406.05946: KL(aligned ‖ base) on harmful answers is spent on the first few tokens.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.losses import kl_divergence
from workbench.probes._base import At
from workbench.rows import TokenKL


@torch.no_grad()
def token_kl(
    model: nn.Module,
    reference: nn.Module,
    batch: Batch,
    at: At,
    measure: Literal["forward_kl", "reverse_kl"] = "forward_kl",
) -> list[TokenKL]:
    """KL_k = Σ_v p(v|x,y_<k) log(p/q) at every response position k of fixed answers y, in nats.

    `forward_kl` is KL(model ‖ reference). Position 0 is the first response token, predicted from
    the last prompt token; both models read the same ids.
    """
    batch = batch.to(next(model.parameters()).device)
    p, q = (response_logits(m, batch).to(batch.input_ids.device) for m in (model, reference))
    if measure == "reverse_kl":
        p, q = q, p
    values = kl_divergence(p, q).split(batch.scored.sum(-1).tolist())
    return [
        TokenKL(
            stage=at.stage,
            step=at.step,
            reference=at.reference,
            group=at.group,
            example=example,
            measure=measure,
            values=row.tolist(),
        )
        for example, row in zip(batch.examples, values, strict=True)
    ]


def response_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "scored vocab"]:
    """Logits at the positions that predict a response token, row after row, in fp32."""
    was_training = model.training
    model.eval()
    logits = HookedLM(model, check=False)(batch).logits[:, :-1]
    logits = logits[batch.scored.to(logits.device)].float()
    model.train(was_training)
    return logits


def budget_share(values: list[list[float]], first: int) -> float:
    """Share of the KL budget spent on the first response tokens, over all examples together.

    >>> budget_share([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]], first=1)
    0.8
    """
    total = sum(map(sum, values))
    return sum(sum(row[:first]) for row in values) / total if total > 0 else float("nan")
