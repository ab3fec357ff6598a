"""A row about per-token gradient norms: one backward pass a token beside ours."""

from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.measure import Figure, Work, interleaved, timed
from benchmarks.models import QUICK, USUAL, Shape, batch, llama
from benchmarks.table import Bench, Row
from workbench.data import Batch
from workbench.token_gradients import TOKENS, token_gradient_norms

PROMPT = 28
"""Prompt tokens: of a response of 100, the first 50 are measured, as the paper measures them."""
LONG = 64
"""A prompt of half of the positions, for comparison."""
FEW = (1, 2, 4, 8, 16)
"""Numbers of tokens among which the crossover is looked for."""


def one_example(shape: Shape, prompt: int) -> Batch:
    """One row of random tokens that begins with a prompt."""
    row = batch(shape).rows([0])
    response = torch.ones_like(row.response_mask)
    response[:, :prompt] = False
    return Batch(row.input_ids, row.attention_mask, response, row.examples)


def backwards(model: nn.Module, one: Batch, tokens: int) -> Work:
    """As the released code does it: all gradients for each token, then norms block by block."""
    blocks = [list(block.parameters()) for block in model.model.layers]  # type: ignore[union-attr, operator]
    inside = {id(p) for block in blocks for p in block}
    rest = [p for p in model.parameters() if id(p) not in inside]
    at = one.scored[0].nonzero().flatten()[:tokens]

    def run() -> list[Tensor]:
        logits = model(one.input_ids, use_cache=False).logits[0, at]
        losses = nn.functional.cross_entropy(logits, one.input_ids[0, at + 1], reduction="none")
        norms = []
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            norms += [
                torch.stack([p.grad.norm() for p in part if p.grad is not None]).norm()
                for part in (*blocks, rest)
            ]
        model.zero_grad()
        return norms

    return run


def ours(model: nn.Module, one: Batch, tokens: int) -> Work:
    """Batched vector-Jacobian products and ghost norms."""
    return lambda: token_gradient_norms(model, one, tokens=tokens)


def speedup(quick: bool) -> list[Figure]:
    """The ratio for the paper's 50 tokens, the same after a long prompt, and the crossover."""
    shape, tokens = (QUICK, 4) if quick else (USUAL, TOKENS)
    prompt, long = (2, 4) if quick else (PROMPT, LONG)
    model = llama(shape)
    short = one_example(shape, prompt)
    times = interleaved(
        ours(model, short, tokens), backwards(model, short, tokens),
        rounds=2 if quick else 11, warmup=1,
    )  # fmt: skip
    other = one_example(shape, long)
    after_long = interleaved(
        ours(model, other, tokens), backwards(model, other, tokens),
        rounds=1 if quick else 5, warmup=1,
    )  # fmt: skip
    faster = [k for k in FEW[: 2 if quick else None] if _faster(model, short, k)]
    crossover = min(faster) if faster else None
    how = shape.configuration() | {
        "batch": 1,
        "tokens": tokens,
        "prompt": prompt,
        f"ratio_after_a_prompt_of_{long}": round(
            float(median(after_long.ratios("cpu", inverse=True))), 3
        ),
        "faster_from_tokens": crossover,
    }
    return [times.figure(how, inverse=True)]


def _faster(model: nn.Module, one: Batch, tokens: int, rounds: int = 7) -> bool:
    """Whether ours takes less time for so few tokens, the median of a few rounds each."""
    works = ours(model, one, tokens), backwards(model, one, tokens)
    found = [[timed(work)[0] for work in works] for _ in range(rounds + 1)][1:]
    return median(row[0] for row in found) < median(row[1] for row in found)


BENCHES = (
    Bench(
        (
            Row(
                "token_gradients_speedup",
                "one backward pass a token with all gradients / ours, first 50 of 100 tokens",
                goal=3.0,
                better="higher",
                peer="one backward pass a token, norms by block",
                limit="weight gradients are not formed, and a token's pass ends at its position; "
                "the gradients at the layers' outputs still cost a pass a token",
            ),
        ),
        speedup,
    ),
)
