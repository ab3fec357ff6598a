"""The smallest reinforcement-learning update: REINFORCE with a group baseline.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", Machine Learning 1992, with the group mean as baseline as in GRPO (Shao et al.,
"DeepSeekMath", 2024, arXiv:2402.03300). One gradient step per set of rollouts, so there is no ratio
to clip; no KL term. It exists to see how a policy gradient compares with its bound while the model
moves, and is no tuned attack.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from workbench.activations import HookedLM
from workbench.data import Batch, Stream
from workbench.domains import Domain, Question
from workbench.losses import token_nll
from workbench.optimisation import Fit
from workbench.rollouts import Reward, roll_out
from workbench.training import Context, Losses, Mean, Step, train


def reinforce(
    model: nn.Module,
    tokenizer: Any,
    domain: Domain,
    questions: Sequence[Question],
    config: Fit,
    *,
    rollouts: int = 8,
    reward: Reward = "success",
    seed: int = 0,
) -> Iterator[Step]:
    """Train in place on what the domain rewards, a step at a time.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        domain: judges the answers.
        questions: what is asked; `config.batch_size` of them a step.
        config: the loop's settings.
        rollouts: answers to each question a step (K).
        reward: which part of the verdict is rewarded.
        seed: of order and sampling.
    """
    lm = HookedLM(model, check=False)
    known = {q.id: q for q in questions}
    asked = Stream("prompts", [q.example for q in questions], tokenizer, config.batch_size, seed)

    def objective(batches: Mapping[str, Batch], context: Context) -> Losses:
        drawn = roll_out(
            model, tokenizer, domain, [known[name] for name in batches["prompts"].examples],
            rollouts=rollouts, reward=reward, seed=seed * 100_003 + context.step,
        )  # fmt: skip
        device = batches["prompts"].input_ids.device
        advantages = dict(
            zip(drawn.batch.examples, drawn.advantages.flatten().to(device), strict=True)
        )

        def loss(part: Mapping[str, Batch]) -> Losses:
            answers = part["rollouts"]
            weights = torch.stack([advantages[name] for name in answers.examples])
            log_probs = -token_nll(lm(answers).logits, answers).sum(1)
            return {"policy": -(weights * log_probs).mean()}

        return context.minimise(
            loss, {"rollouts": drawn.batch.to(device)}, {"policy": Mean("rollouts", "rows")}
        )

    yield from train(model, {"prompts": asked}, objective, config, seed=seed)
