"""Two answers to the same prompts, row by row: checked, and brought to one width."""

from torch import nn

from workbench.data import Batch
from workbench.errors import InvalidValueError


def check_paired(harmful: Batch, refusal: Batch, method: str) -> None:
    """Refuse batches whose row i is not one prompt with two different answers.

    Raises:
        InvalidValueError: naming the first such example.
    """
    if len(harmful) != len(refusal):
        raise InvalidValueError(
            f"{method} needs a refusal for every harmful answer, and was given {len(harmful)} "
            f"harmful rows and {len(refusal)} refusals. {ADVICE}"
        )
    if not (harmful.attention_mask[:, 0].all() and refusal.attention_mask[:, 0].all()):
        raise InvalidValueError(
            f"{method} compares the two answers to a prompt token by token, so rows have to begin "
            "in the first column. Pad on the right (encode's side='right')."
        )
    width = max(harmful.input_ids.shape[1], refusal.input_ids.shape[1])
    a, b = widened(harmful, width), widened(refusal, width)
    equal = a.input_ids == b.input_ids
    same_place = a.response_mask == b.response_mask
    asked = (a.attention_mask & ~a.response_mask, b.attention_mask & ~b.response_mask)
    same_prompt = ((asked[0] == asked[1]) & (equal | ~asked[0])).all(1).tolist()
    same_answer = (same_place & (equal | ~a.response_mask)).all(1).tolist()
    for i, (one, other) in enumerate(zip(a.examples, b.examples, strict=True)):
        if one != other or not same_prompt[i]:
            what = "have the same id but other prompts" if one == other else "are not a pair"
            raise InvalidValueError(
                f"{method}: harmful example {one!r} and refusal {other!r}, both row {i} of their "
                f"batch, {what}. {ADVICE}"
            )
        if same_answer[i]:
            raise InvalidValueError(
                f"{method}: the harmful answer and the refusal of example {one!r} are the same "
                "tokens, so there is nothing to tell apart. Drop the example, correct its refusal, "
                "or raise max_length if both were cut to the same beginning."
            )


ADVICE = (
    "Row i of both streams has to be the same prompt: take both from one domain by "
    "workbench.domains.streams, or give the refusals as Stream(..., like='harmful') over examples "
    "in the same order with the same ids."
)


def widened(batch: Batch, width: int, pad: int = 0) -> Batch:
    """The batch with padding on the right up to a width."""
    more = (0, width - batch.input_ids.shape[1])
    ids = nn.functional.pad(batch.input_ids, more, value=pad)
    real, response = (
        nn.functional.pad(mask, more, value=False)
        for mask in (batch.attention_mask, batch.response_mask)
    )
    return Batch(ids, real, response, batch.examples)


def padding_id(batches: tuple[Batch, ...], fallback: int) -> int:
    """The token that batches are padded with; the fallback if none of them is padded."""
    for batch in batches:
        padding = batch.input_ids[~batch.attention_mask]
        if len(padding):
            return int(padding[0])
    return fallback
