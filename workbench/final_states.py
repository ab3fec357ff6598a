"""Final hidden states at response positions, with the head that reads them.

States of width d stand for distributions over a vocabulary that is 8 to 170 times as wide. Kept on
the CPU beside a copy of the head they outlive their model, so two models that are compared are
never needed at the same time.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import InvalidValueError, ModelError
from workbench.readout import ReadOut, read_out
from workbench.states import MICRO_BATCH, require_room


class Tiles:
    """The logits (fp32) of some rows, a slice of the vocabulary at a time.

    A plain linear head is sliced. Any other reads all of the vocabulary once, for these rows.
    """

    def __init__(self, rows: Float[Tensor, "row d_model"], read: ReadOut):
        self.read = read
        self.head: Any = read.head
        weight = next(self.head.parameters())
        rows = rows.to(weight.device)
        self.whole = None if sliceable(read) else read(rows.to(weight.dtype), normed=True).float()
        self.rows = rows.float()

    def __call__(self, start: int, stop: int) -> Float[Tensor, "row part"]:
        """The logits of the tokens from `start` to before `stop`; scaled and capped."""
        if self.whole is not None:
            return self.whole[:, start:stop]
        bias = None if self.head.bias is None else self.head.bias[start:stop].float()
        weight = self.head.weight[start:stop].float()
        return self.read.finish(nn.functional.linear(self.rows, weight, bias))

    def at(self, tokens: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The logit of one token a row."""
        tokens = tokens.to(self.rows.device)
        if self.whole is not None:
            return self.whole.gather(1, tokens[:, None])[:, 0]
        logits = torch.einsum("rd,rd->r", self.rows, self.head.weight[tokens].float())
        bias = 0.0 if self.head.bias is None else self.head.bias[tokens].float()
        return self.read.finish(logits + bias)


def sliceable(read: ReadOut) -> bool:
    """Whether a slice of the vocabulary can be read without the rest of it."""
    return type(read.head) is nn.Linear and read.head.out_features == read.vocabulary


@dataclass(frozen=True, eq=False)
class FinalStates:
    """What a model's head sees where it predicts response tokens, example after example."""

    values: Float[Tensor, "row d_model"]
    """After the final norm; on the CPU."""
    targets: Int[Tensor, " row"]
    """The token that follows in the text."""
    examples: tuple[str, ...]
    lengths: tuple[int, ...]
    """How many response tokens of each example are predicted."""
    head: ReadOut

    @property
    def vocabulary(self) -> int:
        """How many tokens the head tells apart."""
        return self.head.vocabulary

    def tiles(self, start: int, stop: int) -> Tiles:
        """The logits of some rows."""
        return Tiles(self.values[start:stop], self.head)

    def first(self, examples: int, positions: int) -> "FinalStates":
        """The first positions of the first examples."""
        chosen = [
            at[:positions] for at in self.by_example(torch.arange(len(self.values)))[:examples]
        ]
        rows = torch.cat(chosen)
        return replace(
            self,
            values=self.values[rows],
            targets=self.targets[rows],
            examples=self.examples[:examples],
            lengths=tuple(map(len, chosen)),
        )

    def by_example(self, values: Tensor) -> list[Tensor]:
        """Values of all rows, an entry an example."""
        return list(values.split(list(self.lengths)))


@torch.no_grad()
def final_states(model: nn.Module, batch: Batch, *, own_head: bool = False) -> FinalStates:
    """Read a model's final states where it predicts response tokens.

    Args:
        model: left as it was: mode, weights, random numbers.
        batch: what it reads.
        own_head: copy the head, so that the states can be read when the model is gone or trained
            on; otherwise they are as good as long as the model's head stays what it is.

    Raises:
        InvalidValueError: an example without response, or longer than the model's context.
        ModelError: states that are not finite, or a head that is not known (see `read_out`).
    """
    require_responses(batch)
    lm = HookedLM(model, check=False)
    require_room(lm, batch)
    head = read_out(lm)
    parts = []
    with evaluating(lm.model):
        for part in batch.split(MICRO_BATCH):
            states = lm.stream(part)[:, :-1]
            parts.append(states[part.scored.to(states.device)].cpu())
    values = torch.cat(parts)
    if not torch.isfinite(values).all():
        raise ModelError(
            f"final states of {type(lm.parts.base).__name__} are not finite. The weights hold NaN "
            "or infinity, or the model overflows in its dtype: load it anew, or in fp32."
        )
    head = replace(head, head=deepcopy(head.head)) if own_head else head
    lengths = tuple(batch.scored.sum(1).tolist())
    return FinalStates(values, batch.input_ids[:, 1:][batch.scored], batch.examples, lengths, head)


def begun(batch: Batch, positions: int) -> Batch:
    """The batch with every response cut after its first so many tokens.

    Raises:
        InvalidValueError: fewer than one.
    """
    if positions < 1:
        raise InvalidValueError(f"give at least one response position, not {positions}.")
    beyond = batch.response_mask & (batch.response_mask.cumsum(1) > positions)
    if not beyond.any():
        return batch
    real, response = batch.attention_mask & ~beyond, batch.response_mask & ~beyond
    cut = Batch(batch.input_ids, real, response, batch.examples)
    return cut.rows(range(len(batch)))


def require_responses(batch: Batch) -> None:
    """Refuse examples of which no token is predicted.

    Raises:
        InvalidValueError: some have no response; the message names them.
    """
    empty = [x for x, row in zip(batch.examples, batch.scored, strict=True) if not row.any()]
    if empty:
        raise InvalidValueError(
            f"{len(empty)} of {len(batch)} examples have no response token to predict, the first "
            f"is {empty[0]!r}. Give every prompt an answer, or leave these out."
        )
