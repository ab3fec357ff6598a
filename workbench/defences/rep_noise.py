"""RepNoise: representation noising.

Rosati, Wehner, Williams, Bartoszcze, Atanasov, Gonzales, Majumdar, Maple, Sajjad & Rudzicz,
"Representation noising: a defence mechanism against harmful finetuning", NeurIPS 2024,
arXiv:2405.14577.

What a model knows of harmful answers is to go, not only its willingness. On pairs of a harmful
answer and a refusal of the same prompt, a step lowers the refusal's loss, raises that of the
harmful answer as read out after every block, and moves the MLPs' outputs on the harmful answer
towards Gaussian noise. The paper's setting is all weights in bf16, Adam lr 2e-5 without decay or
clipping, cosine, 10 % warm-up, batch 8, one epoch of 10 000 pairs.

As released, not as written: ascent is damped, −α log(1 + mean loss); hidden states are read through
the final norm and head; the noise is N(0, 1) whatever the activations' scale; the kernels' widths
follow the data. The default, `corrected`, scores answers by their response masks, as Qi et al.,
arXiv:2412.07097, do; `released` keeps the released arithmetic to the digit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.defences._answers import Answers, State, responses_of, where_they_differ
from workbench.defences._base import Family, TrainedDefence
from workbench.defences._pairs import check_paired, padding_id
from workbench.discrepancy import full_precision, mmd
from workbench.errors import InvalidValueError
from workbench.readout import ReadOut, read_out
from workbench.training import Context, Losses, Mean


@dataclass(frozen=True, kw_only=True)
class RepNoise(TrainedDefence):
    """Turn the representations of harmful answers into noise, and keep refusing."""

    family: ClassVar[Family] = "representation"
    start = "aligned"
    streams = ("harmful", "refusal", "retain")
    scores: ClassVar[dict[str, Mean]] = {
        "stability": Mean("refusal"),
        "noise": Mean("harmful", "rows"),
        "ascent": Mean("harmful", "rows"),
        "retain": Mean("retain"),
    }

    alpha: float = 1.0
    """Weight of the damped gradient ascent on harmful answers (α)."""
    beta: float = 1e-3
    """Weight of the distance of the MLPs' outputs on harmful answers from noise (β)."""
    retain_weight: float = 0.0
    """Weight of the loss on `retain`, which the paper has not (0). Where harmful and harmless
    requests look alike, refusals alone teach to refuse both."""
    variant: Literal["corrected", "released"] = "corrected"
    """`corrected` scores response tokens; `released` does what the released code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta", "retain_weight"):
            value = getattr(self, name)
            if value < 0:
                raise InvalidValueError(f"{name} is a weight, so at least 0, not {value}.")

    @property
    def draws(self) -> tuple[str, ...]:
        """`retain` only if it counts."""
        return self.streams if self.retain_weight else self.streams[:2]

    @property
    def coupled(self) -> bool:
        """The discrepancy and the log of a mean depend on which rows are taken together."""
        return bool(self.alpha or self.beta) or self.variant == "released"

    def matched_control(self) -> "RepNoise":
        """Fine-tuning on the same refusals: α = β = 0, everything else alike."""
        return replace(self, alpha=0.0, beta=0.0)

    def loss(self, lm: HookedLM, batches: Mapping[str, Batch], context: Context) -> Losses:
        """Refusals' loss + β · distance from noise − α · log(1 + harmful loss at all depths).

        Raises:
            InvalidValueError: the streams are not paired, or hold a single row.
        """
        pair = batches["harmful"].to(lm.parts.device), batches["refusal"].to(lm.parts.device)
        check_paired(*pair, method="RepNoise")
        self._require_rows(len(pair[0]))
        read = read_out(lm)
        if self.variant == "released":
            config = lm.parts.base.config.get_text_config()
            pad = padding_id(pair, getattr(config, "pad_token_id", None) or 0)
            harmful, refusal, noised = where_they_differ(*pair, pad)
        else:
            harmful, refusal = (responses_of(batch) for batch in pair)
            noised = pair[0].response_mask
        terms = {"stability": refusal.loss(read, refusal.final(lm))}
        if self.alpha or self.beta:
            terms |= self._unlearning(lm, read, harmful, noised, context.noise())
        if self.retain_weight:
            retain = responses_of(batches["retain"].to(lm.parts.device))
            value = retain.loss(read, retain.final(lm))
            terms["retain"] = self.retain_weight * value
        return terms

    def _unlearning(
        self,
        lm: HookedLM,
        read: ReadOut,
        harmful: Answers,
        noised: Bool[Tensor, "batch pos"],
        generator: torch.Generator,
    ) -> Losses:
        """What is asked of the pass over harmful answers."""
        streams = lm.resolve("resid_post")[:-1]
        depths = lm.resolve("resid_pre.0", *streams) if self.alpha else ()
        mlps = lm.resolve("mlp_module_out") if self.beta else ()
        with lm.record(*depths, *mlps, grad=True) as acts:
            final, _ = harmful.final(lm)
        terms: Losses = {}
        if self.beta:
            far = [distance_from_noise(acts[name], noised, generator) for name in mlps]
            terms["noise"] = self.beta * torch.stack(far).mean()
        if self.alpha:
            states: list[State] = [(acts[name], False) for name in depths] + [(final, True)]
            if self.variant == "released":  # transformers' last hidden state is normed already
                states.append((final, False))
            losses = torch.stack([harmful.loss(read, state) for state in states])
            # As released, not as written: L + 2 losses divided by L + 1.
            terms["ascent"] = -self.alpha * torch.log1p(losses.sum() / (lm.n_layers + 1))
        return terms

    def _require_rows(self, rows: int) -> None:
        if rows < 2 and self.beta:
            raise InvalidValueError(
                "RepNoise was given one example at a time, and the discrepancy of one activation "
                "from one sample of noise is a constant without a gradient. Use a batch_size and a "
                "micro_batch that leave at least 2 examples in every part (micro_batch 2 splits 5 "
                "into 1, 2 and 2); to save memory set fit.gradient_checkpointing."
            )


def distance_from_noise(
    hidden: Float[Tensor, "batch pos d_model"],
    mask: Bool[Tensor, "batch pos"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Discrepancy of whole rows of activations from fresh N(0, 1), both zero off the mask."""
    wide = full_precision(hidden)
    noise = torch.randn(wide.shape, generator=generator, dtype=wide.dtype).to(wide.device)
    kept = mask[..., None]
    return mmd(wide.where(kept, 0.0).flatten(1), noise.where(kept, 0.0).flatten(1))
