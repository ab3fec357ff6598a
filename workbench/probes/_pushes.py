"""Which tokens are pushed, and the ways that mean something: towards compliance, harm, an attack.

The way from the mean benign to the mean hazardous state is that of Marks & Tegmark, "The geometry
of truth", COLM 2024, arXiv:2310.06824, and Arditi et al., "Refusal in language models is mediated
by a single direction", NeurIPS 2024, arXiv:2406.11717.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.perturbations import nll_gradients
from workbench.positions import kept_positions
from workbench.probes._amplification import Layers
from workbench.states import require_same_size
from workbench.suffix import prompts_of, streams

MOVED = 1e-5
"""A checkpoint that moved a state by less than this share of its length has not moved it."""
Where = Literal["last_prompt", "response"]


@dataclass(frozen=True, eq=False)
class PushedTexts:
    """What is read, which of its tokens are pushed, and which ways."""

    answered: Batch
    """Hazardous prompts with their compliant answers."""
    benign: Batch | None
    """Benign prompts alone."""
    positions: Where

    @cached_property
    def read(self) -> Batch:
        """Without the answers, if no token of theirs is pushed."""
        return self.answered if self.positions == "response" else prompts_of(self.answered)

    @cached_property
    def keep(self) -> Bool[Tensor, "batch pos"]:
        """The tokens that are pushed and read."""
        return kept_positions(self.read, self.positions)

    def states(self, lm: HookedLM) -> Layers:
        """h_0 … h_L of a model at these tokens."""
        found = streams(lm, self.read)
        return found[:, self.keep.to(found.device)].float().cpu()

    def ways(self, lm: HookedLM, clean: Tensor, then: Layers | None) -> dict[str, Layers]:
        """The direction of each family but the random one, at every layer and kept token.

        Raises:
            InvalidValueError: a reference of another size, or an answer beyond the context.
        """
        h = clean[:, self.keep.to(clean.device)].float().cpu()
        if then is not None:
            require_same_size(h, then)
        downhill = nll_gradients(lm, self.answered).cpu()
        ways = {"gradient": -downhill[:, kept_positions(self.answered, self.positions)]}
        if self.benign is not None:
            ways["steering"] = self._between(lm, self.benign).expand_as(h)
        if then is not None:
            gone = h - then
            moved = gone.norm(dim=-1, keepdim=True) > MOVED * h.norm(dim=-1, keepdim=True)
            ways["real"] = gone.where(moved, 0.0)
        return ways

    def _between(self, lm: HookedLM, benign: Batch) -> Float[Tensor, "layer 1 d_model"]:
        """From the mean benign to the mean hazardous state at the last token of the prompt."""
        means = []
        for batch in (prompts_of(self.answered), benign):
            found = streams(lm, batch)
            means.append(found[:, kept_positions(batch, "last_prompt").to(found.device)].float())
        return (means[0].mean(1, keepdim=True) - means[1].mean(1, keepdim=True)).cpu()
