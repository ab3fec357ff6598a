"""Circuit breakers: representation rerouting.

Zou, Phan, Wang et al., "Improving alignment and robustness with circuit breakers", NeurIPS 2024,
arXiv:2406.04313.

An aligned model is trained until what it represents while it complies with a harmful request is
orthogonal to what it represented before, and what it represents elsewhere has stayed where it was.
No text is scored: activations up to some block are compared with the start model's. The paper's
setting is LoRA r=16 α=16 dropout 0.05, AdamW lr 1e-4 constant, no decay, T=150, batch 16, bf16.

Layers. The paper's layers 10 and 20 index `hidden_states`, whose entry i is what block i − 1 gives:
they are blocks 9 and 19 of 32, and blocks are what `layers` counts here.

Truncation. As released, the blocks above the last rerouted one do not run: they and adapters on
them get no gradient. The released truncated model ends in the final norm, so it retains a stream
that the full model never norms there (and one block more); here the plain stream is retained.

The start is a tie: the cosine is at its maximum and the distance at its minimum, both gradients are
exactly zero, and what the released first step follows is rounding (norms of 1e-7 to 1e-6 on small
models), which Adam scales up to full size; adapter dropout changes nothing while B = 0. Here the
tie is broken in the open: at the first step only, the reference is turned by a small angle towards
a random direction of each layer, from the run's seed, and the step leads away from it.

Balance. Near the start rerouting pulls in proportion to the angle over the activations' norm, and
retention, a norm and not its square, with full force at once. Which of the two wins therefore
depends on the model's scale, and where activations are large, small steps may never leave the
start. α is a factor on both and does not change that; `distance="relative"` takes the scale out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch, Streams
from workbench.defences._base import Family, TrainedDefence
from workbench.defences._rerouting import directions, drift, similarity, turned
from workbench.defences.references import Kind, Reading, Reference, adapter_off, reference
from workbench.errors import InvalidValueError, SiteError
from workbench.training import Context, Losses, Mean, Objective

DEPTHS = (10 / 32, 20 / 32)
"""Shares of the model's depth after which the paper reroutes."""


@dataclass(frozen=True, kw_only=True)
class CircuitBreakers(TrainedDefence):
    """Reroute representations of harm away from where they were, and hold all others."""

    family: ClassVar[Family] = "representation"
    start = "aligned"
    streams = ("harmful", "retain")
    scores: ClassVar[Mapping[str, Mean]] = {
        "reroute": Mean("harmful", "tokens"),
        "retain": Mean("retain", "tokens"),
    }

    alpha: float = 10.0
    """Sum of the two terms' weights at every step (α): 10 for Llama 3 8B, 5 for Mistral 7B."""
    layers: tuple[int, ...] | None = None
    """Blocks whose output is rerouted; None for the paper's shares of the depth, 10/32, 20/32."""
    reference: Kind = "auto"
    """The start model: adapters off, a copy, or a recording; auto: off with `lora_rank`, else a
    copy, as adapters that the model came with belong to the start."""
    retain_mask: Literal["tokens", "official"] = "tokens"
    """What drift is a mean over: real tokens; or all slots, padding counting as 0, as released."""
    distance: Literal["absolute", "relative"] = "absolute"
    """Unit of drift: as in the paper, or each token's share of the reference's norm."""
    truncate: bool = True
    """Retain the stream up to the last rerouted block; else all of it, and the final norm."""
    tie_break: float = 1e-3
    """Tangent of the angle by which the first step's reference is turned; 0 is as released."""
    reroute: bool = True
    """Whether to reroute at all; without, drift is held down and nothing else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha <= 0:
            raise InvalidValueError(
                f"alpha weighs two losses, so it is positive, not {self.alpha}."
            )
        if self.tie_break < 0:
            raise InvalidValueError(f"tie_break is a size, so at least 0, not {self.tie_break}.")

    def matched_control(self) -> "CircuitBreakers":
        """The same training with retention alone, which is the start model, spelt out.

        Retention's gradient is zero at the start, so unless the model has dropout, or the optimiser
        decay, no weight moves. It is still the one control that differs in the method alone:
        learning the streams' text instead would teach compliance, which is another method.
        """
        return replace(self, reroute=False)

    def objective(self, lm: HookedLM, streams: Streams) -> Objective:
        """The step, with a reference that lives as long as the training."""
        ours = self.lora_rank > 0
        start = reference(
            self.reference, lm, self.readings(lm), streams, self.fit, own_adapters=ours
        )
        return lambda batches, context: self.backward(lm, batches, context, start)

    def backward(
        self,
        lm: HookedLM,
        batches: Mapping[str, Batch],
        context: Context,
        start: Reference | None = None,
    ) -> Losses:
        """Gradients of both terms; `start` is the start model, None for the adapters off."""
        towards: dict[str, Tensor] = {}
        if context.step == 0 and self.tie_break and self.reroute:
            sites = self.readings(lm)["harmful"].sites
            width = lm.parts.base.config.get_text_config().hidden_size
            towards = directions(sites, width, self.tie_break, context.generator)
        over = Mean("retain", "slots" if self.retain_mask == "official" else "tokens")
        return context.minimise(
            lambda part: self.loss(lm, part, context, start, towards),
            batches,
            {**self.scores, "retain": over},
        )

    def loss(
        self,
        lm: HookedLM,
        batches: Mapping[str, Batch],
        context: Context,
        start: Reference | None = None,
        towards: Mapping[str, Tensor] | None = None,
    ) -> Losses:
        """c_s · L_s on the harmful batch and c_r · L_r on the retained one.

        Args:
            lm: the model in training.
            batches: one micro-batch of both streams.
            context: of the step, which sets the weights.
            start: the start model; None for the adapters off.
            towards: site -> direction `[d_model]` towards which the reference is turned.
        """
        readings = self.readings(lm)
        start = start or adapter_off(lm, readings)
        reroute, retain = self.weights(context.step + 1, context.steps)
        harmful, kept = batches["harmful"], batches["retain"]
        terms = {}
        if self.reroute:
            goal = turned(start("harmful", harmful), towards or {})
            live = readings["harmful"].of(lm, harmful, grad=True)
            terms["reroute"] = reroute * similarity(live, goal)
        held = start("retain", kept)
        live = readings["retain"].of(lm, kept, grad=True)
        slots = kept.attention_mask.numel()
        counted = slots if self.retain_mask == "official" else int(kept.attention_mask.sum())
        relative = self.distance == "relative"
        return terms | {"retain": retain * drift(live, held, counted, relative=relative)}

    def weights(self, t: int, steps: int) -> tuple[float, float]:
        """c_s and c_r at optimiser step t of T, from 1 on: their sum is α, both end at α/2."""
        retain = self.alpha * min(t / (2 * steps), 1.0)
        return self.alpha - retain, retain

    def rerouted(self, lm: HookedLM) -> tuple[int, ...]:
        """The blocks whose output is rerouted.

        Raises:
            SiteError: the model has no such block.
        """
        n, layers = lm.n_layers, self.layers
        if layers is None:
            layers = tuple(max(0, round(n * share) - 1) for share in DEPTHS)
        if bad := [layer for layer in layers if not 0 <= layer < n]:
            raise SiteError(
                f"layers={layers}: this model has no block {bad[0]}. Its blocks are 0 to {n - 1}; "
                "hidden_states[i] of transformers is the output of block i - 1."
            )
        return tuple(sorted(set(layers)))

    def readings(self, lm: HookedLM) -> dict[str, Reading]:
        """What is compared with the start model, by stream.

        Raises:
            SiteError: the model has no such block.
        """
        layers = self.rerouted(lm)
        run = layers[-1] + 1
        goal = lm.resolve(*[f"resid_post.{layer}" for layer in layers])
        if self.truncate:
            kept = lm.resolve("resid_pre.0", *[f"resid_post.{layer}" for layer in range(run)])
            return {"harmful": Reading(goal, run), "retain": Reading(kept, run)}
        states = lm.resolve("resid_pre", "ln_final")  # what transformers calls hidden_states
        return {"harmful": Reading(goal, run), "retain": Reading(states)}
