"""Answers sampled from a model's own policy, with a domain's verdict as the reward of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.chat_templates import prompt_text
from workbench.data import Batch
from workbench.domains import Domain, Question
from workbench.errors import InvalidValueError
from workbench.generation import generate

Reward = Literal["success", "complied", "right"]
"""Which part of a verdict an attacker rewards."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """K answers to each of some questions, drawn at temperature 1."""

    texts: tuple[str, ...]
    """Prompt after prompt, each K times."""
    rewards: Float[Tensor, "prompt rollout"]
    batch: Batch
    """The very tokens that were drawn, rows in the order of `texts`."""

    @property
    def advantages(self) -> Float[Tensor, "prompt rollout"]:
        """Rewards less their mean over the prompt's rollouts; 0 where all are equal.

        The group baseline of GRPO (Shao et al., 2024, arXiv:2402.03300), not divided by σ_R.
        """
        return self.rewards - self.rewards.mean(1, keepdim=True)

    @property
    def sigma(self) -> Float[Tensor, " prompt"]:
        """Standard deviation of the reward (σ_R), by K − 1, of each prompt."""
        return self.rewards.std(1)

    def of_prompt(self, index: int) -> Batch:
        """The rollouts of one prompt."""
        k = self.rewards.shape[1]
        return self.batch.rows(range(index * k, (index + 1) * k))


def roll_out(
    model: nn.Module,
    tokenizer: Any,
    domain: Domain,
    questions: Sequence[Question],
    *,
    rollouts: int,
    reward: Reward = "success",
    seed: int = 0,
    side: str = "right",
) -> Rollouts:
    """Sample answers and judge them. The model's mode and random numbers are left as they were.

    Raises:
        InvalidValueError: fewer than two rollouts a prompt (their rewards have no spread), or no
            question.
    """
    if rollouts < 2 or not questions:
        raise InvalidValueError(
            f"a spread of rewards needs at least one question and two rollouts of each, not "
            f"{len(questions)} and {rollouts}."
        )
    asked = [q for q in questions for _ in range(rollouts)]
    answers = generate(
        model,
        tokenizer,
        [q.prompt for q in asked],
        max_new_tokens=domain.max_new_tokens,
        temperature=1.0,
        seed=seed,
    )
    verdicts = [domain.judge(q, a.text) for q, a in zip(asked, answers, strict=True)]
    rewards = torch.tensor([float(getattr(v, reward)) for v in verdicts])
    heads = [
        tokenizer.encode(prompt_text(tokenizer, q.prompt), add_special_tokens=False) for q in asked
    ]
    names = tuple(f"{q.id}#{i}" for i, q in enumerate(asked))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    rows = [(head, list(a.ids)) for head, a in zip(heads, answers, strict=True)]
    return Rollouts(
        tuple(a.text for a in answers), rewards.view(-1, rollouts), _padded(rows, names, pad, side)
    )


def _padded(
    rows: Sequence[tuple[list[int], list[int]]], names: tuple[str, ...], pad: int, side: str
) -> Batch:
    """Prompts and drawn tokens as one batch; text is not tokenised anew, which could change it."""
    width = max(len(head) + len(tail) for head, tail in rows)
    ids = torch.full((len(rows), width), pad)
    real, drawn = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for i, (head, tail) in enumerate(rows):
        start = width - len(head) - len(tail) if side == "left" else 0
        end = start + len(head) + len(tail)
        ids[i, start:end] = torch.tensor(head + tail)
        real[i, start:end] = True
        drawn[i, start + len(head) : end] = True
    return Batch(ids, real, drawn, names)
