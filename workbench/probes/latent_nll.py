"""Latent perturbation: how easily a push of the hidden states talks a model out of its refusal.

Gu, Huang, Wang, Wang, Li, Yao, Yao, Yang, Teng & Wang, "Probing the robustness of large language
models safety to latent perturbations", preprint 2025, arXiv:2506.16078: the negative log-likelihood
of the original safe response while the hidden state of one layer is pushed, at random or along a
gradient.

The released code counts the tokens of the prompt in that likelihood; here the response alone is
scored. And a change counts beside what random directions of the same length do at the same place.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.perturbations import (
    Scaling,
    delta_nll,
    matched,
    nll_gradients,
    random_directions,
    require_sizes,
    response_nll,
)
from workbench.positions import kept_positions
from workbench.probes._base import At, Measurement, Probe
from workbench.readout import read_out
from workbench.rows import PerturbedNLL, Row
from workbench.suffix import streams

Pushes = Float[Tensor, "draw row d_model"]


@dataclass(frozen=True, kw_only=True)
class LatentNLL(Probe):
    """Δ NLL(refusal | h_l + δ) at each layer l, for random and for gradient directions δ.

    In nats a token of the response, against the same state without a push. δ is as long as
    ε ‖h_l‖ at every token it acts on.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (PerturbedNLL,)
    needs_reference: ClassVar[bool] = False

    epsilons: tuple[float, ...] = (0.5,)
    """Lengths of the push, as shares of the length of the state; the paper's is 1."""
    draws: int = 8
    """Random directions for each prompt and layer: the null distribution."""
    positions: Literal["last_prompt", "scored"] = "last_prompt"
    """Push the last prompt token, or every token that predicts one of the response (the paper)."""
    scaling: Scaling = "norm"
    """Match the length of the state, or the mean and spread of its components (the paper)."""
    towards: Literal["away", "harmful"] = "away"
    """Gradient: away from the refusal, or towards the compliant answer to the same prompt."""
    sign: bool = False
    """Use the gradient's signs alone (the paper)."""
    prompts: int = 16
    """Hazardous prompts asked, at most."""
    seed: int = 0
    """Of the random directions."""

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Get ready to push what a checkpoint reads; there is nothing to compare with."""
        require_sizes(self.epsilons)
        if self.draws < 1 or self.prompts < 1:
            raise InvalidValueError(
                f"draws={self.draws}, prompts={self.prompts}: both must be at least 1."
            )
        size = min(self.prompts, panel.size)
        refused = panel.batch("refused", size)
        aim = refused if self.towards == "away" else panel.batch("hazard", size)
        keep = pushed_tokens(refused, self.positions)
        return lambda model, at: self._measure(model, at, refused, aim, keep)

    def _measure(
        self, model: nn.Module, at: At, batch: Batch, aim: Batch, keep: Bool[Tensor, "batch pos"]
    ) -> list[Row]:
        lm = HookedLM(model, check=False)
        clean = streams(lm, batch)
        before = response_nll(read_out(lm), batch, clean[-1]).tolist()
        uphill = self._uphill(lm, batch, aim, keep)
        found: dict[tuple[str, int, float], list[list[float]]] = {}
        for layer, stream in enumerate(clean):
            h = stream[keep.to(stream.device)].float().cpu()
            ways = torch.cat([uphill[layer][None], self._random(batch, keep, h, layer)])
            unit = matched(ways, h, self.scaling)
            for epsilon in self.epsilons:
                changes = delta_nll(lm, batch, stream, layer, keep, epsilon * unit)
                for i, values in enumerate(changes.tolist()):
                    key = ("random", i - 1, epsilon) if i else ("gradient", 0, epsilon)
                    found.setdefault(key, []).append(values)
        return [
            PerturbedNLL(
                stage=at.stage,
                step=at.step,
                example=example,
                group="refused",
                family=family,  # type: ignore[arg-type]
                draw=draw,
                epsilon=epsilon,
                positions=self.positions,
                clean=before[i],
                values=[values[i] for values in by_layer],
            )
            for (family, draw, epsilon), by_layer in found.items()
            for i, example in enumerate(batch.examples)
        ]

    def _random(
        self, batch: Batch, keep: Bool[Tensor, "batch pos"], h: Tensor, layer: int
    ) -> Pushes:
        lengths, key = keep.sum(1).tolist(), ("latent-nll", self.seed, layer)
        return random_directions(batch.examples, lengths, h.shape[-1], self.draws, *key)

    def _uphill(
        self, lm: HookedLM, batch: Batch, aim: Batch, keep: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "layer row d_model"]:
        """Where the pushes of a gradient go, at every layer."""
        grads = nll_gradients(lm, aim).cpu()
        if self.towards == "away":
            way = grads[:, keep]
        else:  # the two answers share no tokens but the prompt's: its last one speaks for all
            lengths = keep.sum(1)
            way = -grads[:, kept_positions(aim, "last_prompt")].repeat_interleave(lengths, dim=1)
        return way.sign() if self.sign else way


def pushed_tokens(
    batch: Batch, positions: Literal["last_prompt", "scored"]
) -> Bool[Tensor, "batch pos"]:
    """The last prompt token, or from there every token that predicts one of the response.

    Raises:
        InvalidValueError: an example without prompt or response.
    """
    kept_positions(batch, "response")
    if positions == "last_prompt":
        return kept_positions(batch, "last_prompt")
    return nn.functional.pad(batch.scored, (0, 1))


def latent_landscape(
    lm: HookedLM,
    batch: Batch,
    layer: int,
    one: Float[Tensor, "row d_model"],
    two: Float[Tensor, "row d_model"],
    shares: Float[Tensor, " side"],
    positions: Literal["last_prompt", "scored"] = "last_prompt",
) -> Float[Tensor, "side side batch"]:
    """Δ NLL over the plane of two directions, e.g. random × gradient: [i, j] is at aᵢ·one + aⱼ·two.

    Args:
        lm: the model.
        batch: prompts with the responses scored.
        layer: where the states are pushed.
        one: the first direction, a row for each pushed token; matched to the states in length.
        two: the second.
        shares: a, as shares of the length of the states.
        positions: which tokens are pushed.

    Raises:
        InvalidValueError: no such layer, or an example without prompt or response.
    """
    keep, stream = pushed_tokens(batch, positions), streams(lm, batch)[layer]
    h = stream[keep.to(stream.device)].float().cpu()
    first, second = (shares[:, None, None] * matched(way, h) for way in (one, two))
    plane = (first[:, None] + second[None]).flatten(0, 1)
    changes = delta_nll(lm, batch, stream, layer, keep, plane)
    return changes.view(len(shares), len(shares), -1)
