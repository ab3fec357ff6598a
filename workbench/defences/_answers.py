"""Which tokens of an answer RepNoise scores, and their loss at any depth.

`responses_of` is Qi et al.'s correction, arXiv:2412.07097: the response tokens. What
`where_they_differ` scores, the released code of RepNoise scores, whose quirks it keeps.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences._pairs import widened
from workbench.errors import InvalidValueError
from workbench.readout import ReadOut

State = tuple[Float[Tensor, "batch pos d_model"], bool]
"""Hidden states, and whether the final norm has been applied."""


@dataclass(frozen=True)
class Answers:
    """A batch, and which of its tokens are scored."""

    batch: Batch
    scored: Bool[Tensor, "batch pos_minus_1"]
    """Positions whose next token is scored."""
    blind: int = 0
    """Further tokens, scored as if the model's logits there were all equal."""
    places: Int[Tensor, "batch pos"] | None = None
    """Position ids; None counts real tokens."""

    def final(self, lm: HookedLM) -> State:
        """One pass without the head."""
        if self.places is None:
            return lm.stream(self.batch), True
        return lm.stream(self.batch, position_ids=self.places), True

    def loss(self, read: ReadOut, state: State) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the scored tokens (nats), read out of hidden states.

        Raises:
            InvalidValueError: no token is scored.
        """
        hidden, normed = state
        targets = self.batch.input_ids[:, 1:][self.scored]
        count = len(targets) + self.blind
        if not count:
            raise InvalidValueError(
                f"no token of examples {', '.join(self.batch.examples)} is scored: the answers are "
                "empty. Give every example a response that fits into max_length."
            )
        nll = read.nll(hidden[:, :-1][self.scored], targets, normed=normed)
        return (nll.sum() + self.blind * math.log(read.vocabulary)) / count


def responses_of(batch: Batch) -> Answers:
    """Every response token, end of turn included."""
    return Answers(batch, batch.scored)


def where_they_differ(
    harmful: Batch, refusal: Batch, pad: int
) -> tuple[Answers, Answers, Bool[Tensor, "batch pos"]]:
    """As released, not as written: what counts is where two answers differ in place.

    Padding differs from text, too. Returns both answers, and the places where they differ.
    """
    width = max(harmful.input_ids.shape[1], refusal.input_ids.shape[1])
    a, b = widened(harmful, width, pad), widened(refusal, width, pad)
    differ = a.input_ids != b.input_ids
    return by_difference(a, differ), by_difference(b, differ), differ


def by_difference(batch: Batch, differ: Bool[Tensor, "batch pos"]) -> Answers:
    """As released, not as written: id 0 is never scored, and padding with another id is.

    The first differing token is scored blindly, as logits are wiped where the tokens agree.
    """
    scored = differ[:, 1:] & (batch.input_ids[:, 1:] != 0)
    seen = scored & differ[:, :-1]
    # Attention is masked as ever, but padding stands in its own column, as where none is told.
    places = torch.arange(differ.shape[1], device=differ.device).expand(differ.shape)
    return Answers(batch, seen, int((scored & ~seen).sum()), places)
