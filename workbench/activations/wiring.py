"""Does the residual stream add up? The sites are guesses from structure; this is the proof.

On a few dummy tokens, in every block: `resid_pre + attn_out` is `resid_mid`, and
`resid_pre + attn_out + mlp_out` is `resid_post`. Where that fails, other modules are tried (Bloom
and MPT add the residual inside theirs). Names that fail for good are dropped with the reason, as
with Granite (contributions scaled after the module) or the `resid_mid` of parallel blocks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.activations.contexts import Activations, Edits
from workbench.activations.engine import instead
from workbench.activations.sharded import reshard
from workbench.activations.sites import Anatomy, Site, projections
from workbench.errors import ModelError

N_TOKENS = 8
TOLERANCE = 1e-3
"""Allowed error relative to what a block adds; a wrong site is wrong by a large share of it."""
Sites = Mapping[str, Site]
Acts = Mapping[str, Tensor]


def proven(parts: Anatomy, sites: Sites) -> tuple[dict[str, Site], dict[str, str]]:
    """The sites that mean what their names say, and of the others why not.

    Draws no random numbers.

    Raises:
        ModelError: the model cannot read plain token ids.
    """
    blocks = [f"blocks.{i}.hook_" for i in range(len(parts.blocks))]
    best, acts = dict(sites), dummy_pass(parts, sites)
    for guess in other_guesses(parts, sites):
        if not any(error_of_sum(at, acts) for at in blocks):
            break
        tried = dummy_pass(parts, guess)
        if not any(error_of_sum(at, tried) for at in blocks):
            best, acts = guess, tried
    broken = {name: "it did not fire in a forward pass" for name in sites if name not in acts}
    for at in blocks:
        broken |= broken_in_block(at, acts)
    if any(name.endswith("resid_mid") for name in broken):
        broken |= parallel(parts, best, acts, broken)
    return {name: site for name, site in best.items() if name not in broken}, broken


def dummy_pass(parts: Anatomy, sites: Sites, edits: tuple[Edits, ...] = ()) -> Acts:
    """What passes through the sites when the model reads a few tokens, dropout off."""
    acts = Activations(list(sites.values()))
    ids = torch.arange(3, 3 + N_TOKENS)[None] % parts.base.config.get_text_config().vocab_size
    with evaluating(parts.whole), instead(edits, (acts,)):
        try:
            parts.whole(input_ids=ids.to(parts.device), use_cache=False)
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{type(parts.base).__name__} does not run on token ids alone, so it is no causal "
                f"LM as this package knows them: {error}"
            ) from error
    return acts


def other_guesses(parts: Anatomy, sites: Sites) -> Iterator[dict[str, Site]]:
    """All sites once more, with other modules for `attn_out` and `mlp_out` in every block."""
    for guess in zip(*(projections(block) for block in parts.blocks), strict=False):
        other = dict(sites)
        for i, modules in enumerate(guess):
            for short, module in modules.items():
                name = f"blocks.{i}.hook_{short}"
                other[name] = replace(sites[name], module=module)
        yield other


def error_of_sum(at: str, acts: Acts, total: str = "resid_post", scale: float = 1.0) -> float:
    """By how much a block's stream does not add up; 0 within rounding, or if a term is lacking."""
    parts = ("attn_out", "mlp_out") if total == "resid_post" else ("attn_out",)
    names = [at + short for short in ("resid_pre", *parts, total)]
    if any(name not in acts for name in names):
        return 0.0
    before, *added, after = (acts[name].float() for name in names)
    error = mismatch([before, *(scale * x for x in added)], after, acts[names[-1]].dtype)
    return 0.0 if error <= TOLERANCE else error  # NaN is kept


def broken_in_block(at: str, acts: Acts) -> dict[str, str]:
    """The names to give up in one block; the stream between blocks is never in doubt."""
    broken, scale = {}, 1.0
    if error := error_of_sum(at, acts):
        reason = (
            f"resid_pre + attn_out + mlp_out is not resid_post (relative error {error:.2g}): this "
            "family adds the residual in a way that is not known"
        )
        if (factor := fitted_scale(at, acts)) and not error_of_sum(at, acts, scale=factor):
            scale = factor
            reason = (
                f"the block adds {factor:.3g} times what its modules give, not resid_pre + "
                "attn_out + mlp_out; read attn_module_out and mlp_module_out"
            )
        broken = {at + name: reason for name in ("attn_out", "mlp_out")}
    if error := error_of_sum(at, acts, "resid_mid", scale):
        broken[at + "resid_mid"] = (
            f"resid_pre + attn_out is not resid_mid (relative error {error:.2g})"
        )
    return broken


def fitted_scale(at: str, acts: Acts) -> float:
    """The one factor that best explains what a block adds by what its modules give.

    Least squares over tokens, each in units of its own stream, which is what rounding is relative
    to: one massive token would drown the others in its error.
    """
    before, attn, mlp, after = (
        acts[at + name].float() for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")
    )
    size = after.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(after.dtype).tiny)
    given, added = (attn + mlp) / size, (after - before) / size
    factor = float((given * added).sum() / (given * given).sum())
    return factor if factor == factor else 0.0  # NaN  # noqa: PLR0124


def parallel(parts: Anatomy, sites: Sites, acts: Acts, broken: Mapping[str, str]) -> dict[str, str]:
    """A better reason where blocks are parallel: their MLP does not see what attention gives.

    Proved by changing what attention gives in the first block without a middle of the stream.
    """
    at = next(name for name in broken if name.endswith("resid_mid")).removesuffix("resid_mid")
    attn, mlp = sites.get(f"{at}attn_module_out"), f"{at}mlp_module_out"
    if attn is None or mlp not in acts:
        return {}
    louder = Edits([(attn, lambda x, name: 2 * x + 1)])
    if not torch.equal(dummy_pass(parts, {mlp: sites[mlp]}, (louder,))[mlp], acts[mlp]):
        return {}
    reason = "attention and MLP work side by side (parallel blocks): no stream lies between them"
    return {name: reason for name in broken if name.endswith("resid_mid")}


def mismatch(terms: list[Tensor], total: Tensor, dtype: torch.dtype) -> float:
    """|total - sum| beyond rounding, relative to the norms of all terms but the first.

    That of the worst token; NaN if any token's is. Norms are those of single tokens, because
    rounding is relative to each token's own stream: in half precision one massive token (an
    attention sink) would excuse any error of the others. A token to which nothing is added counts
    with its absolute error.
    """
    gap = (total - sum(terms)).norm(dim=-1)
    added = sum(term.norm(dim=-1) for term in terms[1:])
    info, size = torch.finfo(dtype), terms[0].norm(dim=-1) + total.norm(dim=-1) + added
    excess = gap - info.eps * (size + info.tiny * total.shape[-1] ** 0.5)  # spacing below tiny
    return float(torch.where(added > 0, excess / added, excess).max())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; each module gets its own mode back afterwards.

    May come anywhere in training, also between backward and the optimiser step of a model that
    several processes share (FSDP2), where the model has to be given as it was sharded.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        reshard(model)
