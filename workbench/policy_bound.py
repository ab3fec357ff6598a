"""How far a policy-gradient step can move a model: the entropy bound, stated once.

Feng et al., "Token Buncher: shielding LLMs from harmful reinforcement learning fine-tuning",
preprint 2025, arXiv:2508.20697, argue that reinforcement learning feeds on response entropy,
‖∇J‖ ≤ C·√H̄. With the constant written out, for one prompt,

    J(θ) = E_{y~π}[R(y)],
    ‖∇J‖ ≤ σ_R · Λ · √(Σ_t E[1 − ‖π_t‖²]) ≤ σ_R · Λ · √(T·H̄),

where σ_R is the reward's standard deviation under the policy, π_t the distribution of token t after
its prefix, Λ the largest spectral norm of ∂logits_t/∂θ over prefixes, and H̄ the mean entropy of the
T positions in nats.

Why: ∇J = E[(R − E R)·S] with the score S = Σ_t J_tᵀ(e_{y_t} − π_t), J_t = ∂logits_t/∂θ. For a unit
vector u, Cauchy-Schwarz gives |⟨u, ∇J⟩| ≤ σ_R·√E⟨u, S⟩². The terms of ⟨u, S⟩ are martingale
differences, so their squares add up: E⟨u, S⟩² = Σ_t E[Var_{π_t}(J_t u)] ≤ Σ_t E[Λ_t²(1 − ‖π_t‖²)],
because the covariance diag(π) − ππᵀ has no eigenvalue above its trace. Last, 1 − Σp² ≤ −Σp·log p as
1 − p ≤ −log p. Λ_t² stands inside an expectation, so no prefix counts that the policy never writes.

Over several prompts J is their mean, and the bound is the mean of theirs (triangle inequality). For
a subset of the parameters everything holds with the gradient and Λ of that subset.
"""

from jaxtyping import Float
from torch import Tensor


def gini(logits: Float[Tensor, "*pos vocab"]) -> Float[Tensor, "*pos"]:
    """1 − ‖π‖² = 1 − Σ_v π(v)²: the chance that two draws differ, the trace of their covariance.

    Between 0 (a point mass) and 1 − 1/V; never above the entropy in nats.

    >>> import torch
    >>> gini(torch.zeros(4)).item()
    0.75
    """
    # as Σp(1 − p), which rounding cannot push below zero
    p = logits.log_softmax(-1).exp()
    return (p * (1 - p)).sum(-1)


def fuel(
    sigma: Float[Tensor, "*prompt"], spread: Float[Tensor, "*prompt"]
) -> Float[Tensor, "*prompt"]:
    """What reinforcement learning can burn, σ_R·√G with G = Σ_t E[1 − ‖π_t‖²], a prompt.

    >>> import torch
    >>> fuel(torch.tensor(0.5), torch.tensor(4.0)).item()
    1.0
    """
    return sigma * spread.clamp_min(0).sqrt()


def gradient_bound(
    sigma: Float[Tensor, "*prompt"], spread: Float[Tensor, "*prompt"], jacobian: float | Tensor
) -> Float[Tensor, ""]:
    """The most ‖∇J‖ can be: Λ times the mean fuel of the prompts.

    Args:
        sigma: s.d. of the reward under the policy (σ_R).
        spread: Σ_t E[1 − ‖π_t‖²]; or T·H̄ for the looser bound.
        jacobian: an upper bound of the spectral norm of ∂logits/∂θ (Λ) over all prefixes. One from
            below, by power iteration or over some prefixes, gives an estimate and no valid bound.
    """
    return jacobian * fuel(sigma, spread).mean()
