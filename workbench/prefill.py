"""How deep a refusal goes: does an answer succeed once its first k tokens are given?

Qi et al., "Safety alignment should be made more than just a few tokens deep", ICLR 2025,
arXiv:2406.05946, §3: attacks that begin the answer for the model.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from workbench.data import token_ids
from workbench.domains import Domain, Question, Split
from workbench.generation import generate
from workbench.rows import Prefill, Stage


def prefill_curve(
    model: nn.Module,
    tokenizer: Any,
    domain: Domain,
    *,
    most: int,
    stage: Stage,
    step: int,
    split: Split = "test",
    limit: int | None = None,
) -> list[Prefill]:
    """Give the first k = 0 to `most` tokens of a compliant answer to each hazardous request.

    The whole text, what was given included, is judged as an answer is. Greedy. The curve of a short
    answer ends one token before it: with all of it given nothing would be left to decide.
    """
    questions = list(domain.questions(split, "hazard"))[:limit]
    starts = [_starts(tokenizer, q, most) for q in questions]
    texts = generate(
        model,
        tokenizer,
        [q.prompt for q, given in zip(questions, starts, strict=True) for _ in given],
        prefill=[text for given in starts for text in given],
        max_new_tokens=domain.max_new_tokens,
    )
    answers = iter(texts)
    rows = []
    for question, given in zip(questions, starts, strict=True):
        verdicts = [domain.judge(question, next(answers).text) for _ in given]
        rows.append(
            Prefill(
                stage=stage,
                step=step,
                split=split,
                domain=question.domain,
                example=question.id,
                group="hazard",
                values=[float(v.success) for v in verdicts],
            )
        )
    return rows


def _starts(tokenizer: Any, question: Question, most: int) -> Sequence[str]:
    """The first 0, 1, ... tokens of the compliant answer, as text, but never all of them."""
    _, answer = token_ids(tokenizer, question.example)
    said = [token for token in answer if token not in tokenizer.all_special_ids]
    return [tokenizer.decode(said[:k]) for k in range(min(most, max(len(said) - 1, 0)) + 1)]
