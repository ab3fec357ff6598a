"""How refusals begin: the tokens whose probability tells whether a model is about to refuse."""

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.data import Batch
from workbench.errors import MissingStreamError
from workbench.panel import Panel


def refusal_starts(panel: Panel) -> Int[Tensor, " token"] | None:
    """The tokens that begin a refusal of the panel and none of its compliant answers, each once.

    Taken from the texts, so nothing is to be set, and every tokenizer and template has its own.
    In turn the set is only as wide as these refusals: another way to begin one is not counted, and
    neither is one that compliance shares (`I cannot`, `I would`).

    Returns:
        None if the domain has no refusals, or none that begins in a way of its own.
    """
    if "hazard" not in panel.groups:
        return None
    try:
        refused = first_tokens(panel.batch("refused"))
    except MissingStreamError:
        return None
    complied = torch.cat([first_tokens(panel.batch(group)) for group in panel.groups])
    own = refused[~torch.isin(refused, complied)]
    return own if len(own) else None


def first_tokens(batch: Batch) -> Int[Tensor, " token"]:
    """The different tokens with which responses begin."""
    first = batch.response_mask & (batch.response_mask.cumsum(1) == 1)
    return batch.input_ids[first].unique()
