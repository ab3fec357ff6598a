"""A batch of a panel, and the rows of activations that a recording keeps of it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import ModelError
from workbench.host_copies import HostCopies
from workbench.positions import Mask, Positions, kept_index, kept_positions, mean_kept, rows_kept
from workbench.stored_tensors import TORCH, Dtype

Run = Callable[[Batch], Any]
"""One forward pass."""


class KeptRows:
    """A batch and which of its tokens are kept."""

    def __init__(self, batch: Batch, keep: Bool[Tensor, "batch pos"], positions: Positions | Mask):
        self.batch, self._keep = batch, keep
        self.lengths = rows_kept(keep, positions)
        """Rows that each example gives."""
        self._mean = positions == "mean_response"
        self._chosen: dict[torch.device, Tensor] = {}

    @classmethod
    def of(cls, batch: Batch, positions: Positions | Mask) -> "KeptRows":
        """Up to the last kept token: a causal model's later ones cannot change it.

        Raises:
            UnknownNameError: no such choice of positions.
            InvalidValueError: an example has no such token.
        """
        keep = kept_positions(batch, positions)
        stop = int(keep.any(0).nonzero().max()) + 1
        ids, real, scored = batch.input_ids, batch.attention_mask, batch.response_mask
        cut = Batch(ids[:, :stop], real[:, :stop], scored[:, :stop], batch.examples)
        return cls(cut, keep[:, :stop], positions)

    def rows(
        self, lm: HookedLM, sites: Sequence[str], dtype: Dtype, run: Run
    ) -> dict[str, Float[Tensor, "row d_model"]]:
        """The kept rows at each site, on the host, from one forward pass.

        Raises:
            ModelError: an activation has other positions than the batch.
        """
        if lm.parts.device.type == "cuda":
            copies, stored = HostCopies(), TORCH[dtype]
            with lm.record(
                *sites, select=lambda x, name: copies.take(name, self._take(x).to(stored))
            ):
                run(self.batch)
            return copies.wait()
        with lm.record(*sites, select=lambda x, _: self._take(x), to=TORCH[dtype]) as acts:
            run(self.batch)
        return dict(acts)

    def _take(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "row d_model"]:
        """The kept rows of an activation, wherever it is; never a view of it."""
        if x.shape[:2] != self._keep.shape:  # or rows would be taken at wrong positions, silently
            raise ModelError(
                f"an activation of shape {tuple(x.shape)} where the batch has {len(self._keep)} "
                f"texts of {self._keep.shape[1]} tokens: the model reads others than it is given, "
                "such as a prompt that PEFT puts before them. Record the model without it "
                "(disable_adapter), or a site before it (embed)."
            )
        if x.device not in self._chosen:
            chosen = self._keep if self._mean else kept_index(self._keep)
            self._chosen[x.device] = chosen.to(x.device)
        chosen = self._chosen[x.device]
        return mean_kept(x, chosen) if self._mean else x.flatten(0, 1).index_select(0, chosen)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave random numbers and training modes as they were."""
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)), evaluating(model):
        yield


def site_widths(lm: HookedLM, sites: Sequence[str]) -> dict[str, int]:
    """How many numbers a row has at each site, from a forward pass of one token."""
    one = torch.ones(1, 1, dtype=torch.bool)
    token = Batch(one.long(), one, ~one, ("one token",))
    with undisturbed(lm.model), lm.record(*sites, select=lambda x, _: x[:0]) as acts:
        lm(token, **without_logits(lm))
    return {site: acts[site].shape[-1] for site in sites}


def without_logits(lm: HookedLM) -> dict[str, Any]:
    """Logits over the vocabulary are not needed: ask for one position's, where possible."""
    takes = signature(lm.parts.base.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}


def tokens_digest(panel: Sequence[Batch]) -> str:
    """Digest of the token ids of a panel's examples and of which of them are responses."""
    digest = hashlib.sha256()
    for batch in panel:
        rows = zip(
            batch.examples, batch.input_ids, batch.attention_mask, batch.response_mask, strict=True
        )
        for name, ids, real, response in rows:
            digest.update(repr((name, ids[real].tolist(), response[real].tolist())).encode())
    return digest.hexdigest()
