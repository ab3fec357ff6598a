"""The same weights seen through TransformerLens and nnsight, for notebooks.

Both libraries take a model over: TransformerLens swaps every module of the object it is given, and
there is no way back. Therefore each view is built on a *shell*: new module objects around the very
same parameters. The model itself is not touched, not even run, and training it shows in the view.

A view that would show something other than the model is refused. Both libraries are imported here
and nowhere else, when a view is asked for.
"""

import copy
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.quiet import quiet
from workbench.read_only import input_device, offloaded, quantisation

N_TOKENS = 8
TOLERANCE = 1e-4
"""Allowed error of a view's logits relative to their norm; a wrong view is wrong by far more."""
NAME = "local/model"
"""What TransformerLens is told: its table of aliases knows no such name, and asks no hub for it."""
FUSED = ("c_attn", "qkv_proj", "query_key_value", "gate_up_proj", "Wqkv")
"""Projections that hold several in one, by the names that families give them."""


def transformer_lens(base: Any, tokenizer: Any, *, snapshot: bool = False) -> Any:
    """A `TransformerBridge` on the model's own parameters, in evaluation mode.

    Attention is computed eagerly in it, so patterns and scores can be read.

    Args:
        base: a Hugging Face causal LM, without PEFT's wrapper (its adapters inside are kept).
        tokenizer: of the model; without one the library would look for it on the Hub.
        snapshot: accept a view some of whose parameters are copies, as TransformerLens makes them
            of GPT-NeoX's fused attention: true now, stale once the model is trained.

    Raises:
        ModelError: TransformerLens does not know this family, or its view would not be true.
    """
    refuse(base, "TransformerLens")
    refuse_fused_adapters(base)
    shell = shell_of(base)
    expected = logits(shell, input_device(base))
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            view = TransformerBridge.boot_transformers(
                NAME,
                hf_model=shell,
                tokenizer=tokenizer,
                device=str(input_device(base)),
                dtype=base.dtype,
            ).eval()
            found = logits(view, input_device(base))
    except Exception as error:  # whatever an adapter stumbles over
        reason = str(error).splitlines()[0][:200]
        raise ModelError(
            f"TransformerLens cannot show a {type(base).__name__}: {reason}. HookedLM records and "
            "edits it without a view."
        ) from error
    require_same(expected, found, "TransformerLens")
    copied = copies(view, base)
    if copied and not snapshot:
        raise ModelError(
            f"TransformerLens copies {len(copied)} parameters of a {type(base).__name__} "
            f"({', '.join(copied[:3])}, ...), so its view would not follow training. Give "
            "transformer_lens(snapshot=True) to look at the weights as they are now."
        )
    return view


def nnsight(base: Any, tokenizer: Any) -> Any:
    """An nnsight `TransformersModel` on the model's own parameters, in evaluation mode.

    Args:
        base: a Hugging Face causal LM, without PEFT's wrapper (its adapters inside are kept).
        tokenizer: of the model.

    Raises:
        ModelError: the view would not be true.
    """
    refuse(base, "nnsight")
    shell = shell_of(base)
    expected = logits(shell, input_device(base))
    from nnsight import TransformersModel

    view = TransformersModel(shell, tokenizer=tokenizer, task="text-generation")
    require_same(expected, logits(view._module, input_device(base)), "nnsight")
    return view


def shell_of(base: nn.Module) -> Any:
    """New module objects around the very same parameters and buffers, in evaluation mode."""
    same = {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]}
    return copy.deepcopy(base, same).eval()


def refuse_fused_adapters(base: nn.Module) -> None:
    """Refuse adapters on projections that TransformerLens takes apart, and would leave out.

    Where an adapter is fresh the logits do not tell: it adds nothing yet.

    Raises:
        ModelError: there is such an adapter.
    """
    fused = [
        name
        for name, module in base.named_modules()
        if hasattr(module, "lora_A") and name.split(".")[-1] in FUSED
    ]
    if fused:
        raise ModelError(
            f"{fused[0]} has an adapter on a fused projection, which TransformerLens takes apart "
            "without it. Merge it first (merge_lora), or look through nnsight."
        )


def refuse(base: nn.Module, library: str) -> None:
    """Refuse models that no shell can be made of.

    Raises:
        ModelError: they are sharded, offloaded or quantised.
    """
    if any(hasattr(p, "full_tensor") for p in base.parameters()):
        why = "it is sharded (FSDP2 or tensor parallelism), and a sharded model has no second self"
        cure = "Ask for the view before sharding, or load the checkpoint on one device."
    elif offloaded(base):
        why = "parts of it are offloaded, and accelerate's hooks belong to the one model"
        cure = "Load it without device_map."
    elif (how := quantisation(base)) is not None:
        why = f"its weights are quantised ({how}), which {library} does not read as such"
        cure = "Load it in bf16 or fp32."
    else:
        return
    raise ModelError(f"no {library} view of this {type(base).__name__}: {why}. {cure}")


def require_same(
    expected: Float[Tensor, "1 pos vocab"], found: Float[Tensor, "1 pos vocab"], library: str
) -> None:
    """Refuse a view that computes something else than the model.

    Raises:
        ModelError: its logits on a few dummy tokens differ by more than rounding.
    """
    error = float((found - expected).float().norm() / expected.float().norm())
    allowed = max(TOLERANCE, 8 * torch.finfo(expected.dtype).eps)
    if not error <= allowed:  # NaN fails too
        raise ModelError(
            f"the {library} view disagrees with the model: logits differ by {error:.2g} of their "
            "norm. Known causes: an adapter on a fused projection (GPT-2's c_attn, Phi-3's "
            "qkv_proj), which the view leaves out, and weights that are not finite. Merge the "
            "adapter first (merge_lora)."
        )


@torch.no_grad()
def logits(model: Any, device: torch.device) -> Float[Tensor, "1 pos vocab"]:
    """What a model or a view says after a few dummy tokens."""
    ids = torch.arange(3, 3 + N_TOKENS, device=device)[None]
    out = model(ids)
    return getattr(out, "logits", out)


def copies(view: nn.Module, base: nn.Module) -> list[str]:
    """Names of a view's parameters that do not share the model's memory."""
    own = {p.untyped_storage().data_ptr() for p in base.parameters()}
    return [n for n, p in view.named_parameters() if p.untyped_storage().data_ptr() not in own]
