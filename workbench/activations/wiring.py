"""Does the residual stream add up? The sites are guesses from structure; this is the proof.

On a few dummy tokens, in every block: `resid_pre + attn_out` is `resid_mid`, and
`resid_pre + attn_out + mlp_out` is `resid_post`. Names that fail are dropped with the reason, as
with Granite (outputs scaled after the module), Bloom (residual added inside it), or the `resid_mid`
of parallel blocks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workbench.activations.contexts import Activations
from workbench.activations.engine import instead
from workbench.activations.sites import Anatomy, Site

N_TOKENS = 8
TOLERANCE = 1e-3
"""Allowed error relative to what a block adds; a wrong site is wrong by a large share of it."""
SUMS = {"resid_mid": ("resid_pre", "attn_out"), "resid_post": ("resid_pre", "attn_out", "mlp_out")}
SUSPECTS = {"resid_mid": ("resid_mid",), "resid_post": ("attn_out", "mlp_out")}
"""Which names to give up when a sum fails; the stream between blocks is never in doubt."""


def broken_sites(parts: Anatomy, sites: Mapping[str, Site]) -> dict[str, str]:
    """The sites that do not mean what their names say, with the reason. Draws no random numbers."""
    acts = Activations(list(sites.values()))
    ids = torch.arange(3, 3 + N_TOKENS)[None] % parts.base.config.get_text_config().vocab_size
    with evaluating(parts.base), instead((), (acts,)):
        parts.base(input_ids=ids.to(parts.device), use_cache=False)
    broken = {name: "it did not fire in a forward pass" for name in sites if name not in acts}
    for i in range(len(parts.blocks)):
        broken |= _broken_in_block(f"blocks.{i}.hook_", acts)
    return broken


def _broken_in_block(prefix: str, acts: Mapping[str, Tensor]) -> dict[str, str]:
    broken: dict[str, str] = {}
    for total, terms in SUMS.items():
        values = [acts[prefix + name] for name in (*terms, total) if prefix + name in acts]
        error = mismatch(values[:-1], values[-1]) if len(values) == len(terms) + 1 else 0.0
        if not error <= TOLERANCE:  # NaN fails too
            reason = f"{' + '.join(terms)} is not {total} (relative error {error:.2g})"
            broken |= {prefix + name: reason for name in SUSPECTS[total]}
    return broken


def mismatch(terms: list[Tensor], total: Tensor) -> float:
    """|total - sum| beyond rounding, relative to the norm of all terms but the first."""
    gap = (total.float() - sum(term.float() for term in terms)).norm()
    added = sum(float(term.float().norm()) for term in terms[1:])
    size = float(terms[0].float().norm() + total.float().norm()) + added
    excess = float(gap) - 4 * torch.finfo(total.dtype).eps * size
    return excess / added if added else excess


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside; each module gets its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
