"""The upper part of a model run again from an edited residual stream, many edits at a time.

The stream h_l after block l (h_0 is the embeddings, h_L what the final norm reads) decides all that
lies above it, so an edit of h_l costs the blocks above l and no others. The model's own decoder
runs them: masks, positions and rotary angles are made as in a full pass, and each block keeps its
place in the list, where families with several kinds of attention look up its mask. What is left out
is a view's business (`activations.shortened`); the model itself is not touched.
"""

from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.activations.engine import instead
from workbench.activations.shortened import with_blocks
from workbench.data import Batch
from workbench.errors import InvalidValueError, ModelError
from workbench.states import require_room

N_TOKENS = 8


@torch.no_grad()
def streams(lm: HookedLM, batch: Batch) -> Float[Tensor, "layer batch pos d_model"]:
    """The residual streams h_0 … h_L of one clean pass, in the model's type and on its device.

    Raises:
        InvalidValueError: an example is longer than the model's context.
        ModelError: states of real tokens that are not finite.
    """
    require_room(lm, batch)
    with evaluating(lm.model), lm.record("resid_pre", last(lm)) as acts:
        lm.stream(batch)
    found = torch.stack(list(acts.values()))
    real = batch.attention_mask.to(found.device)
    bad = [layer for layer, h in enumerate(found) if not torch.isfinite(h[real]).all()]
    if bad:
        raise ModelError(
            f"hidden states are not finite at layer {bad[0]} (0 is the embeddings). The weights "
            "hold NaN or infinity, or the model overflows in its dtype: load it anew, or in fp32."
        )
    return found


def run_from(
    lm: HookedLM,
    batch: Batch,
    stream: Float[Tensor, "batch pos d_model"],
    start: int,
    stop: int | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The stream h_stop that follows from a stream h_start: blocks start + 1 … stop run again.

    Sites of these blocks fire and edits act as in a full pass; those below do not fire. Gradients
    flow into the stream. The model should be in evaluation mode, as it was for the clean pass. A
    family that cannot be entered in the middle (a block that reads what a lower one kept, say) runs
    in full with the stream put in place: just as exact, only slower; `can_enter` says which.

    Args:
        lm: the model.
        batch: what the stream was made from, for masks and positions; `repeated` for many edits.
        stream: h_start, in the model's type.
        start: how many blocks are left out: 0 … L.
        stop: the last block to run; None for all.

    Raises:
        InvalidValueError: no such layers.
    """
    stop = lm.n_layers if stop is None else stop
    require_layers(lm, start, stop)
    if start == stop:
        return stream
    return (_enter if can_enter(lm, start) else _in_full)(lm, batch, stream, start, stop)


def repeated(batch: Batch, copies: int) -> Batch:
    """The same rows several times over: row c · len(batch) + i is row i."""
    tensors = (batch.input_ids, batch.attention_mask, batch.response_mask)
    ids, real, scored = (x.repeat(copies, 1) for x in tensors)
    return Batch(ids, real, scored, batch.examples * copies)


def prompts_of(batch: Batch) -> Batch:
    """The batch without its responses: in a causal model they do not change what comes before."""
    prompt = batch.attention_mask & ~batch.response_mask
    bare = Batch(batch.input_ids, prompt, torch.zeros_like(prompt), batch.examples)
    return bare.rows(range(len(batch)))


def require_layers(lm: HookedLM, *layers: int) -> None:
    """Refuse layers that a model does not have, and an order that runs downwards.

    Raises:
        InvalidValueError: such layers.
    """
    if list(layers) != sorted(layers) or not all(0 <= x <= lm.n_layers for x in layers):
        raise InvalidValueError(
            f"layers {', '.join(map(str, layers))} were asked for; this model has layers 0 (the "
            f"embeddings) to {lm.n_layers} (after the last block), to be named from the lowest up."
        )


def last(lm: HookedLM) -> str:
    """The site of h_L, before the final norm."""
    return f"resid_post.{lm.n_layers - 1}"


def can_enter(lm: HookedLM, start: int) -> bool:
    """Whether a model runs from this layer on without the blocks below; proved on a few tokens."""
    proofs = _PROVED.setdefault(lm, {})
    if start not in proofs:
        proofs[start] = _reproduces(lm, start)
    return proofs[start]


_PROVED: WeakKeyDictionary[HookedLM, dict[int, bool]] = WeakKeyDictionary()


def _reproduces(lm: HookedLM, start: int) -> bool:
    vocabulary = lm.parts.base.config.get_text_config().vocab_size
    ids = torch.arange(3, 3 + N_TOKENS)[None] % vocabulary
    real = torch.ones_like(ids, dtype=torch.bool)
    batch = Batch(ids, real, ~real, ("dummy",))
    with evaluating(lm.model), instead((), ()):
        with lm.record(f"resid_pre.{start}", last(lm)) as acts:
            lm.stream(batch)
        stream, own = acts.values()
        try:
            ours = _enter(lm, batch, stream, start, lm.n_layers)
        except Exception:  # what a family trips over in the middle is its own affair
            return False
    return ours.shape == own.shape and torch.allclose(ours, own, rtol=1e-3, atol=1e-5)


def _enter(lm: HookedLM, batch: Batch, stream: Tensor, start: int, stop: int) -> Tensor:
    """Run a view in which blocks that are left out hand on what they are given."""
    blocks = lm.parts.blocks
    kept = [*map(Bypass, blocks[:start]), *blocks[start:stop]]
    decoder: Any = with_blocks(lm.parts.base.get_decoder(), blocks, kept, lm.parts.final_norm)
    batch = batch.to(lm.parts.device)
    positions = {"position_ids": batch.position_ids}
    takes = "position_ids" in signature(decoder.forward).parameters
    with lm.intervene({f"resid_pre.{start}": lambda x, _: stream}):
        return decoder(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            use_cache=False,
            **(positions if takes else {}),
        ).last_hidden_state


def _in_full(lm: HookedLM, batch: Batch, stream: Tensor, start: int, stop: int) -> Tensor:
    """Run all blocks and put the stream in place on the way."""
    site = f"resid_post.{stop - 1}"
    edit = {f"resid_pre.{start}": lambda x, _: stream}
    with lm.intervene(edit), lm.record(site, grad=True) as acts:
        lm.stream(batch)
    (found,) = acts.values()
    return found


class Bypass(nn.Module):
    """Stands in a block's place: hands its input on, and answers for the block's attributes."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.__dict__["block"] = block  # not a submodule: its parameters are not this one's

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The input, whatever else the decoder passes along."""
        return hidden_states
