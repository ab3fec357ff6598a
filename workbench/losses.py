"""Pure, masked terms of training objectives, computed in fp32 and averaged over tokens.

The logits at position t predict token t + 1, so `logits[:, :-1]` meets `batch.scored`.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical

from workbench.data import IGNORED, Batch
from workbench.errors import InvalidValueError


def token_nll(
    logits: Float[Tensor, "batch pos vocab"], batch: Batch
) -> Float[Tensor, "batch pos_minus_1"]:
    """Negative log-likelihood of each response token (nats), zero elsewhere.

    Column t holds that of token t + 1.
    """
    return nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2),
        batch.targets,
        ignore_index=IGNORED,
        reduction="none",
    )


def cross_entropy(logits: Float[Tensor, "batch pos vocab"], batch: Batch) -> Float[Tensor, ""]:
    """Mean negative log-likelihood over all response tokens of the batch (nats a token).

    Raises:
        InvalidValueError: the batch holds no response token.
    """
    return _mean(token_nll(logits, batch), batch.scored)


def kl_divergence(
    logits_p: Float[Tensor, "*pos vocab"],
    logits_q: Float[Tensor, "*pos vocab"],
    mask: Bool[Tensor, "*pos"] | None = None,
) -> Float[Tensor, "..."]:
    """KL(p ‖ q) = Σ_v p(v) (log p(v) − log q(v)) in nats.

    The mean over the masked positions; without a mask, one value a position. Gradients flow into
    both arguments: detach the one that is a reference.

    Raises:
        InvalidValueError: the mask is empty.
    """
    p, q = logits_p.float().log_softmax(-1), logits_q.float().log_softmax(-1)
    return _mean(nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1), mask)


def entropy(
    logits: Float[Tensor, "*pos vocab"], mask: Bool[Tensor, "*pos"] | None = None
) -> Float[Tensor, "..."]:
    """H(p) = −Σ_v p(v) log p(v) in nats.

    The mean over the masked positions; without a mask, one value a position.

    Raises:
        InvalidValueError: the mask is empty.
    """
    return _mean(Categorical(logits=logits.float()).entropy(), mask)


def _mean(values: Float[Tensor, "*pos"], mask: Bool[Tensor, "*pos"] | None) -> Float[Tensor, "..."]:
    if mask is None:
        return values
    if not mask.any():
        raise InvalidValueError(
            "there is no position to average over; give a batch with at least one response token."
        )
    return values.where(mask, 0.0).sum() / mask.sum()
