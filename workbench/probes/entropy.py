"""Response entropy, and how much reinforcement learning can still move a model.

Feng, Wang, Wei, Zhang, Gao, Zhan, Lv & Dong, "Token Buncher: shielding LLMs from harmful
reinforcement learning fine-tuning", preprint 2025, arXiv:2508.20697: policy gradients
are bounded by the entropy of the responses. The statement, its constant and its proof are in
`workbench.policy_bound`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workbench.domains import Question
from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.policy_bound import fuel, gradient_bound
from workbench.probes._base import At, Measurement, Probe
from workbench.probes._policy_gradient import Answers, Declared, Scope
from workbench.rollouts import Reward, Rollouts, roll_out
from workbench.rows import PolicyBound, ResponseEntropy, Row


@dataclass(frozen=True, kw_only=True)
class EntropyBound(Probe):
    """Entropy of sampled answers by position, and ‖∇J‖ beside its bound σ_R·Λ·√(Σ_t E[1 − ‖π_t‖²]).

    Rollouts are drawn at temperature 1; the reward is the domain's verdict. Gradient and Λ are of
    the declared parameters only, and so is the statement. Of the head's matrix Λ is bounded from
    above for every prefix there is, by what the final norm can give; of more parameters, or after a
    norm of an unknown kind, the largest over the prefixes drawn is plugged in, which may be too
    small. σ_R and the spread carry the sampling error of the rollouts, and that of the measured
    gradient makes its norm too large rather than too small.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (ResponseEntropy, PolicyBound)
    needs_reference: ClassVar[bool] = False

    prompts: int = 8
    """Hazardous requests that are answered, at most."""
    rollouts: int = 8
    """Answers drawn to each (K)."""
    reward: Reward = "success"
    """What the attacker rewards: success, compliance, or the share that is right."""
    parameters: Scope = "head"
    """Whose gradient is bounded: the head's matrix, or also the final norm and the last block,
    which takes d_model backward passes a token."""
    seed: int = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts < 1 or self.rollouts < 2:
            raise InvalidValueError(
                "the spread of a reward needs at least 1 prompt and 2 rollouts of each, not "
                f"{self.prompts} and {self.rollouts}."
            )

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Get ready to sample answers to the panel's hazardous requests.

        Raises:
            InvalidValueError: the domain asks no hazardous request.
        """
        questions = panel.questions("hazard", min(self.prompts, panel.size))
        if not questions:
            raise InvalidValueError(
                f"{panel.domain.name} has no hazardous request in the split {panel.split!r}, so "
                "there is nothing to reward. Choose another split, or give a `harmful` file."
            )
        return lambda model, at: self._measure(model, panel, questions, at)

    def _measure(
        self, model: nn.Module, panel: Panel, questions: Sequence[Question], at: At
    ) -> list[Row]:
        drawn = roll_out(
            model, panel.tokenizer, panel.domain, questions,
            rollouts=self.rollouts, reward=self.reward, seed=self.seed, side=panel.side,
        )  # fmt: skip
        declared = Declared(model, self.parameters)
        weights = drawn.advantages / (self.rollouts - 1)  # by K − 1: without bias, as σ_R² is
        answers = [declared.measure(drawn.of_prompt(i), weight) for i, weight in enumerate(weights)]
        profiles: list[Row] = [
            ResponseEntropy(
                stage=at.stage, step=at.step, example=q.id, group="hazard",
                measure=measure, values=_profile(getattr(answer, measure)),
            )
            for q, answer in zip(questions, answers, strict=True)
            for measure in ("entropy", "gini")
        ]  # fmt: skip
        return profiles + [
            PolicyBound(
                stage=at.stage, step=at.step, parameters=self.parameters, reward=self.reward,
                measure=measure, value=value, n=len(questions),  # type: ignore[arg-type]
            )
            for measure, value in _bound(drawn, answers, declared.norm_bound()).items()
        ]  # fmt: skip


def _profile(rollouts: Sequence[Tensor]) -> list[float]:
    """Mean over the rollouts that reach a position."""
    longest = max(map(len, rollouts))
    return [
        float(torch.stack([x[k] for x in rollouts if len(x) > k]).mean()) for k in range(longest)
    ]


def _bound(drawn: Rollouts, answers: Sequence[Answers], upper: float | None) -> dict[str, float]:
    """Every measure of the bound; prompts count alike.

    Args:
        drawn: the rollouts.
        answers: what each prompt's rollouts say.
        upper: what Λ cannot exceed; None where only the prefixes drawn are known.
    """
    sigma = drawn.sigma
    ginis = torch.tensor([a.gini_sum for a in answers])
    entropies = torch.tensor([a.entropy_sum for a in answers])
    largest = max(a.norm for a in answers)
    norm = largest if upper is None else upper
    bound = float(gradient_bound(sigma, ginis, norm))
    mean = torch.zeros_like(answers[0].gradient)
    for a in answers:
        mean += a.gradient / len(answers)
    measured = float(mean.norm())
    ratio = {"ratio": measured / bound} if bound > 0 else {}
    return {
        "reward": float(drawn.rewards.mean()),
        "sigma_R": float(sigma.mean()),
        "silent": float((sigma == 0).float().mean()),
        "gini_sum": float(ginis.mean()),
        "entropy_sum": float(entropies.mean()),
        "fuel": float(fuel(sigma, ginis).mean()),
        "lambda_drawn": largest,
        **({} if upper is None else {"lambda_upper": upper}),
        "bound": bound,
        "entropy_bound": float(gradient_bound(sigma, entropies, norm)),
        "measured": measured,
        **ratio,
    }
