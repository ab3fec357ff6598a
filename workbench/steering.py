"""Directions in the residual stream, and taking them out of it.

Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee & Nanda, "Refusal in language models is mediated by
a single direction", NeurIPS 2024, arXiv:2406.11717: the difference of the mean states at the last
prompt token of harmful and of harmless requests; without its component a model hardly refuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.errors import InvalidValueError, SiteError
from workbench.states import States, require_finite

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Every place of the residual stream that a block reads from or writes to."""


def difference_of_means(one: States, other: States, layer: int) -> Float[Tensor, " d_model"]:
    """The unit vector from the mean of the other states to that of the one, after a layer.

    Args:
        one: e.g. hazardous prompts, read at their last token.
        other: e.g. benign ones.
        layer: number of the block, from 0.

    Raises:
        InvalidValueError: no such layer, no states, or equal means, which have no direction.
        ModelError: states that are not finite.
    """
    for states in (one, other):
        require_finite(states)
        if not states.values.shape[1]:
            raise InvalidValueError("a mean needs the states of at least one token; got none.")
    if not 0 <= layer < len(one.layers):
        raise InvalidValueError(
            f"layer must be 0 to {len(one.layers) - 1} in this model, not {layer}."
        )
    difference = one.values[layer].double().mean(0) - other.values[layer].double().mean(0)
    if not difference.any():
        raise InvalidValueError(
            f"the means after layer {layer} are equal, so there is no direction from one to the "
            "other. Give other texts or another layer."
        )
    return (difference / difference.norm()).float()


def without(
    x: Float[Tensor, "*pos d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "*pos d_model"]:
    """States less their component along a unit vector, x − (x·r)r; in fp32 or wider inside."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    along = direction.to(wide)
    return (wide - (wide @ along)[..., None] * along).to(x.dtype)


@contextmanager
def ablated(lm: HookedLM, direction: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Keep a direction out of the residual stream at every layer and position inside the context.

    Generation is covered as any other forward pass is, and no hook stays behind.

    Raises:
        InvalidValueError: a direction of another width, or not of length 1.
        SiteError: the model's residual stream cannot be edited.
    """
    width = lm.parts.base.get_input_embeddings().weight.shape[-1]
    if direction.shape != (width,) or abs(float(direction.norm()) - 1) > 1e-3:
        raise InvalidValueError(
            f"a direction must be a unit vector of {width} numbers here, not one of shape "
            f"{tuple(direction.shape)} and length {float(direction.norm()):.3g}."
        )
    sites = [site for site in STREAM if f"blocks.0.hook_{site}" in lm.sites]
    if "resid_pre" not in sites or "resid_post" not in sites:
        raise SiteError("this model's residual stream cannot be edited between its blocks.")
    with lm.intervene({site: lambda x, name: without(x, direction) for site in sites}):
        yield
