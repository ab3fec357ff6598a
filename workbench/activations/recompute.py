"""Gradient checkpointing that knows about edits.

With checkpointing a block's forward runs a second time, inside backward. If the edits' context is
closed by then, the recomputed block is another function than the one whose loss was taken: the
gradients are wrong (relative errors of 0.15 to 1.3 were measured) and no error is raised. Here each
block's recomputation replays the edits that its own forward saw, and records nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from workbench.activations.contexts import Edits
from workbench.activations.engine import EDITS, instead
from workbench.errors import InvalidValueError

States = Sequence[tuple[torch.Generator, torch.Tensor]]


def enable(base: Any) -> None:
    """Checkpoint every block, with replay. Global random numbers are replayed by torch itself."""
    kwargs = {"use_reentrant": False, "context_fn": replaying}
    if hasattr(base, "activation_checkpointing_enable"):  # renamed on the way to transformers 6
        base.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    _free_input(base)


def disable(base: Any) -> None:
    """Keep all activations again."""
    if hasattr(base, "activation_checkpointing_disable"):
        base.activation_checkpointing_disable()
    else:
        base.gradient_checkpointing_disable()
    _free_input(base)


def _free_input(base: Any) -> None:
    # Enabling has transformers make embeddings require gradients, which reentrant checkpointing
    # needs. Ours is not, and would then keep and walk through frozen blocks for nothing.
    base.disable_input_require_grads()


def replaying() -> tuple[AbstractContextManager, AbstractContextManager]:
    """What torch opens around a block's forward and around its recomputation."""
    edits = EDITS.get()
    return nullcontext(), _replay(edits, [(g, g.get_state()) for e in edits for g in e.generators])


@contextmanager
def _replay(edits: tuple[Edits, ...], states: States) -> Iterator[None]:
    # Recomputation may run in an autograd thread, which has no contexts of its own.
    now = [(generator, generator.get_state()) for generator, _ in states]
    _restore(states)
    try:
        with instead(edits, ()):
            yield
    finally:
        _restore(now)


def _restore(states: States) -> None:
    for generator, state in states:
        generator.set_state(state)


def refuse_foreign(block: nn.Module) -> None:
    """Refuse to edit a model whose checkpointing would silently forget the edits.

    Raises:
        InvalidValueError: checkpointing was switched on by other means than ours.
    """
    if not (getattr(block, "gradient_checkpointing", False) and torch.is_grad_enabled()):
        return
    function = getattr(block, "_gradient_checkpointing_func", None)
    if getattr(function, "keywords", {}).get("context_fn") is not replaying:
        raise InvalidValueError(
            "this model recomputes its blocks in backward (gradient checkpointing) without "
            "replaying edits, which gives silently wrong gradients. Call "
            "HookedLM.gradient_checkpointing() instead of the model's own switch."
        )
