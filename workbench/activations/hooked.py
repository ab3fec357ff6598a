"""A Hugging Face causal LM whose activations can be read and changed by name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.activations import names, recompute
from workbench.activations.contexts import Activations, Edit, Edits, Select
from workbench.activations.engine import EDITS, RECORDINGS, opened
from workbench.activations.inputs import as_batch
from workbench.activations.sharded import refuse_part
from workbench.activations.shortened import shortened
from workbench.activations.sites import anatomy, find_sites
from workbench.activations.wiring import proven
from workbench.data import Batch
from workbench.errors import InvalidValueError


class HookedLM:
    """Names for the activations of any Hugging Face causal LM, plain or PEFT.

    Nothing is copied, renamed or wrapped: `model` is the object that was given, and saving,
    generating, training and adding adapters go on as before. Torch hooks exist only while a context
    is open. `torch.compile` ignores hooks that come after its first call of a model; a context that
    comes too late closes with an error.

    Args:
        model: a `PreTrainedModel` or `PeftModel`.
        check: prove on a few dummy tokens that the residual stream adds up (one short forward
            pass); sites that fail are left out, and `dropped` says why.

    Raises:
        ModelError: this is not a Hugging Face causal LM.
    """

    def __init__(self, model: nn.Module, check: bool = True):
        self.model: Any = model
        self.parts = anatomy(model)
        sites, self.dropped = find_sites(self.parts)
        """Sites that this model lacks, or has by name but not in meaning: name -> reason."""
        if check:
            sites, broken = proven(self.parts, sites)
            self.dropped |= broken
        self._sites = sites
        self.sites = tuple(self._sites)
        """Canonical names, in the order of a forward pass."""
        self._resolved: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._takes_positions = "position_ids" in signature(self.parts.base.forward).parameters

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return len(self.parts.blocks)

    def resolve(self, *patterns: str) -> tuple[str, ...]:
        """Canonical names for names, short forms (`resid_post`, `resid_post.3`) and globs.

        Raises:
            SiteError: a pattern matches nothing; the message lists what exists.
        """
        if patterns not in self._resolved:
            self._resolved[patterns] = names.resolve(patterns, self.sites, self.dropped)
        return self._resolved[patterns]

    def __call__(self, batch: Batch | Mapping[str, Any], **kwargs: Any) -> Any:
        """One forward pass without a cache; the model's own output object.

        Positions are counted from each row's first real token, so the side of the padding does not
        matter. Without them GPT-2 reads a left-padded row at the wrong positions.

        Args:
            batch: a `Batch`, or what a tokenizer gives with `return_tensors="pt"`.
            kwargs: further arguments of the model.

        Raises:
            InvalidValueError: neither of them.
        """
        batch = as_batch(batch).to(self.parts.device)
        if self._takes_positions:
            kwargs.setdefault("position_ids", batch.position_ids)
        kwargs.setdefault("use_cache", False)
        mask = batch.attention_mask.long()
        return self.model(input_ids=batch.input_ids, attention_mask=mask, **kwargs)

    def stream(
        self, batch: Batch | Mapping[str, Any], blocks: int | None = None, **kwargs: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        """One forward pass without the head, and if wanted without the upper blocks.

        Sites fire and edits act as in a full pass, to the last bit; those that are left out do not
        fire. Adapters inside the blocks (LoRA) take part, prompts that PEFT would prepend do not.

        Args:
            batch: what to read, as in a call.
            blocks: run only so many blocks, from the first, and no final norm; None for all of
                them and the final norm.
            kwargs: further arguments of the decoder; `position_ids` where it takes them.

        Returns:
            What the last of them gave.

        Raises:
            InvalidValueError: fewer than one block, more than there are, or no batch.
            ModelError: the model does not keep its blocks in one list, or is sharded (FSDP2).
        """
        if blocks is not None and not 1 <= blocks <= self.n_layers:
            raise InvalidValueError(
                f"this model has {self.n_layers} blocks, so it can run the first 1 to "
                f"{self.n_layers} of them, not {blocks}."
            )
        decoder = self.parts.base.get_decoder()
        refuse_part(self.parts.whole, decoder)
        if blocks is not None:
            decoder = shortened(decoder, self.parts.blocks, blocks, self.parts.final_norm)
        batch = as_batch(batch).to(self.parts.device)
        if self._takes_positions:
            kwargs.setdefault("position_ids", batch.position_ids)
        else:
            kwargs.pop("position_ids", None)
        kwargs.setdefault("use_cache", False)
        mask = batch.attention_mask.long()
        return decoder(input_ids=batch.input_ids, attention_mask=mask, **kwargs).last_hidden_state

    @contextmanager
    def record(
        self,
        *patterns: str,
        grad: bool = False,
        select: Select | None = None,
        to: torch.device | torch.dtype | str | None = None,
    ) -> Iterator[Activations]:
        """Record activations of the forward passes that this thread runs inside the context.

        Args:
            patterns: which sites, as in `resolve`.
            grad: keep the tensors in the graph (for losses on activations or gradients of them);
                otherwise they are detached private copies.
            select: what to keep of each, for example some positions; before any copy is made.
            to: a device or a type to move them to.

        Raises:
            SiteError: a site does not exist; or, on leaving, never fired or was changed in place.
        """
        sites = [self._sites[name] for name in self.resolve(*patterns)]
        with opened(RECORDINGS, Activations(sites, grad, select, to)) as acts:
            yield acts

    @contextmanager
    def intervene(
        self, edits: Mapping[str, Edit], generators: Sequence[torch.Generator] = ()
    ) -> Iterator[None]:
        """Replace activations by functions of themselves; gradients flow through the functions.

        Edits of one context run in the order given, contexts from the outermost to the innermost,
        and recordings see the result.

        Args:
            edits: pattern -> `fn(activation, name)`, returning a tensor of the same shape and type,
                or None for no change.
            generators: random generators that the functions draw from, so that gradient
                checkpointing can replay their draws (torch's global one needs no mention).

        Raises:
            SiteError: a site does not exist or, on leaving, never fired; a replacement of another
                shape or type.
            InvalidValueError: the model's own gradient checkpointing is on, which forgets edits.
        """
        recompute.refuse_foreign(self.parts.blocks[0])
        pairs = [(self._sites[n], fn) for p, fn in edits.items() for n in self.resolve(p)]
        with opened(EDITS, Edits(pairs, generators)):
            yield

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute each block in backward instead of keeping its activations (in training mode).

        Recomputation replays the edits of its own forward, whatever is open by then, and never
        records a second time.
        """
        (recompute.enable if on else recompute.disable)(self.parts.base)

    def transformer_lens(self, tokenizer: Any, *, snapshot: bool = False) -> Any:
        """The same weights as a TransformerLens `TransformerBridge`, for heads and circuits.

        The model is not touched; training it shows in the view. What is refused, and why:
        `workbench.views`.

        Args:
            tokenizer: of the model.
            snapshot: accept a view that copies some parameters (GPT-NeoX, Falcon, Bloom).

        Raises:
            ModelError: the view would show something other than the model.
        """
        from workbench import views

        return views.transformer_lens(self.parts.base, tokenizer, snapshot=snapshot)

    def nnsight(self, tokenizer: Any) -> Any:
        """The same weights as an nnsight `TransformersModel`, for operations inside modules.

        Args:
            tokenizer: of the model.

        Raises:
            ModelError: the view would show something other than the model.
        """
        from workbench import views

        return views.nnsight(self.parts.base, tokenizer)
