"""Where the named activations of a Hugging Face causal LM live.

Names are TransformerLens's. `attn_out` and `mlp_out` are what a block adds to the residual stream,
which in families with post-norms (Gemma 2 and 3, OLMo 2) is the post-norm's output; the modules'
own outputs, which Vaccine and its relatives perturb, are `attn_module_out` and `mlp_module_out`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from workbench.errors import ModelError
from workbench.read_only import input_device

Side = Literal["in", "out"]
Port = tuple[Side, nn.Module]
"""One side of one module: where a torch hook sits. Several names may share a port."""

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "ln_final")
POST_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
"""Norms between what attention and MLP give and the residual stream, where a family has both."""
PRE_MLP = (
    "pre_feedforward_layernorm",
    "post_attention_layernorm",
    "feedforward_layernorm",
    "ln_2",
    "norm_2",
)
PROJECTIONS = ("o_proj", "out_proj", "dense", "dense_4h_to_h", "down_proj")
"""The last linear layer of attention or MLP, where the module adds the residual after it."""

EMBED, FINAL = "hook_embed", "ln_final.hook_out"


@dataclass(frozen=True)
class Site:
    """A named activation: the input or the output of one module, `[batch, pos, d_model]`."""

    name: str
    side: Side
    module: nn.Module

    @property
    def port(self) -> Port:
        """Where the hook goes."""
        return self.side, self.module


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal LM that carry the residual stream."""

    whole: Any
    """The model as it was given, which is what a forward pass runs."""
    base: Any
    """The model without PEFT's wrapper."""
    embed: nn.Module
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return input_device(self.base)


def anatomy(model: nn.Module) -> Anatomy:
    """Find embedding, blocks and final norm by structure, for any Hugging Face causal LM.

    Raises:
        ModelError: this is not such a model.
    """
    peft_base = getattr(model, "get_base_model", None)
    base: Any = peft_base() if callable(peft_base) else model
    name = type(base).__name__
    if not all(hasattr(base, x) for x in ("get_input_embeddings", "get_decoder", "config")):
        raise ModelError(
            f"{name} is not a Hugging Face causal LM: it has no config, no decoder or no input "
            "embeddings. Give a PreTrainedModel or a PeftModel."
        )
    if base.config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder with a decoder; there is not one residual stream from prompt to "
            "answer. Give a decoder-only ...ForCausalLM."
        )
    decoder = base.get_decoder()
    n_layers = getattr(base.config.get_text_config(), "num_hidden_layers", None)
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise ModelError(
            f"no list of {n_layers} blocks in {type(decoder).__name__} "
            f"(config.num_hidden_layers = {n_layers}), so its residual stream cannot be found."
        )
    blocks, embed = tuple(lists[0]), base.get_input_embeddings()
    return Anatomy(model, base, embed, blocks, first(decoder, FINAL_NORM))


def find_sites(parts: Anatomy) -> tuple[dict[str, Site], dict[str, str]]:
    """All sites of a model in the order of a forward pass, and why those it lacks are missing."""
    sites = {EMBED: Site(EMBED, "out", parts.embed)}
    missing: dict[str, str] = {}
    for i, block in enumerate(parts.blocks):
        for short, (side, module) in block_ports(block).items():
            name = f"blocks.{i}.hook_{short}"
            if module is None:
                missing[name] = f"{type(block).__name__} has no module known to give it"
            else:
                sites[name] = Site(name, side, module)
    if parts.final_norm is None:
        missing[FINAL] = f"no final norm among {', '.join(FINAL_NORM)}"
    else:
        sites[FINAL] = Site(FINAL, "out", parts.final_norm)
    return sites, missing


def block_ports(block: nn.Module) -> dict[str, tuple[Side, nn.Module | None]]:
    """The activations of one block, by the last part of their names, in forward order."""
    attn, mlp = first(block, ATTENTION), first(block, MLP)
    attn_out, mlp_out = post_norms(block) or (attn, mlp)
    return {
        "resid_pre": ("in", block),
        "attn_module_out": ("out", attn),
        "attn_out": ("out", attn_out),
        "resid_mid": ("in", before_mlp(block, mlp)),
        "mlp_module_out": ("out", mlp),
        "mlp_out": ("out", mlp_out),
        "resid_post": ("out", block),
    }


def projections(block: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Other modules that may give what a block adds, for blocks whose first guess is disproved.

    MPT's MLP takes the residual in and adds it; Bloom's attention does so too.
    """
    attn, mlp = first(block, ATTENTION), first(block, MLP)
    if attn is None or mlp is None:
        return
    if (after_mlp := first(mlp, PROJECTIONS)) is not None:
        yield {"attn_out": attn, "mlp_out": after_mlp}
        if (after_attn := first(attn, PROJECTIONS)) is not None:
            yield {"attn_out": after_attn, "mlp_out": after_mlp}


def post_norms(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The norms applied to what attention and MLP give, in families that have both."""
    for after_attn, after_mlp in POST_NORMS:
        pair = first(block, (after_attn,)), first(block, (after_mlp,))
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
    return None


def before_mlp(block: nn.Module, mlp: nn.Module | None) -> nn.Module | None:
    """The module whose input is the stream between attention and MLP."""
    taken = post_norms(block) or ()
    norms = [norm for name in PRE_MLP if (norm := first(block, (name,))) is not None]
    return next((norm for norm in norms if not any(norm is t for t in taken)), mlp)


def first(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    """The first of these submodules that exists."""
    found = (getattr(module, name, None) for name in names)
    return next((m for m in found if isinstance(m, nn.Module)), None)
