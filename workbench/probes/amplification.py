"""Butterfly amplification: how a small push of one layer grows on its way up.

The name is that of a related observation about weights, a single edit of which can make a model
collapse: Yang, Sun, Ma, Liu, Yin & Cheng, "The butterfly effect of model editing: few edits can
trigger large language models collapse", ACL Findings 2024, arXiv:2402.09656. The measures of hidden
states are this workbench's own: A_{l→m}(δ) = ‖h_m(h_l + δ) − h_m(h_l)‖ / ‖δ‖.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from workbench.activations import HookedLM
from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.perturbations import matched, random_directions, require_sizes
from workbench.probes._amplification import Layers, Pushes, Shifts, shifts, sigma_max
from workbench.probes._base import At, Measurement, Probe
from workbench.probes._damper import any_direction, damp, fitted
from workbench.probes._pushes import PushedTexts
from workbench.rows import Amplification, Damper, Row
from workbench.suffix import prompts_of, require_layers, streams

Family = Literal["random", "gradient", "steering", "real"]


@dataclass(frozen=True, kw_only=True)
class Butterfly(Probe):
    """A_{l→m} = ‖h_m(h_l + δ) − h_m(h_l)‖ / ‖δ‖ for every pair of layers, and what dampens it.

    δ is ε ‖h_l‖ long at every token pushed; its direction is random, the gradient towards the
    compliant answer, the way from benign to hazardous prompts, or the way the checkpoint went from
    the reference.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (Amplification, Damper)
    needs_reference: ClassVar[bool] = False

    epsilon: float = 0.02
    """Length of the push, as a share of the length of the state."""
    draws: int = 4
    """Random directions for each prompt and layer."""
    positions: Literal["last_prompt", "response"] = "last_prompt"
    """Tokens that are pushed and read: the last of the prompt, or all of the response."""
    power_steps: int = 0
    """Steps of power iteration for σ_max of every Jacobian; 0 leaves it out."""
    damped: tuple[Family, ...] | None = ("gradient", "steering", "real")
    """Pushes that dampers are tried on; none leaves the experiment out."""
    damped_from: int = 1
    """Layer that these pushes act on; 0 is the embeddings, where all prompts end in one token."""
    prompts: int = 16
    """Hazardous prompts, at most, and as many benign ones for the direction between them."""
    seed: int = 0
    """Of the random directions."""

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Read the reference's states once, if there is a reference."""
        require_sizes((self.epsilon,))
        if self.draws < 1 or self.prompts < 1 or self.power_steps < 0:
            raise InvalidValueError(
                f"draws={self.draws}, prompts={self.prompts}, power_steps={self.power_steps}: "
                "draws and prompts must be at least 1, steps at least 0."
            )
        size = min(self.prompts, panel.size)
        answered = panel.batch("hazard", size)
        benign = prompts_of(panel.batch("benign", size)) if "benign" in panel.groups else None
        texts = PushedTexts(answered, benign, self.positions)
        then = None if reference is None else texts.states(HookedLM(reference, check=False))
        return lambda model, at: list(self._measure(HookedLM(model, check=False), at, texts, then))

    def _measure(
        self, lm: HookedLM, at: At, texts: PushedTexts, then: Layers | None
    ) -> Iterator[Row]:
        require_layers(lm, self.damped_from)
        clean = streams(lm, texts.read)
        ways = texts.ways(lm, clean, then)
        for layer in range(lm.n_layers + 1):
            here = {family: way[layer][None] for family, way in ways.items()}
            here = {"random": self._random(texts, clean.shape[-1], layer)} | here
            h = clean[layer, texts.keep.to(clean.device)].float().cpu()
            delta = self.epsilon * matched(torch.cat(list(here.values())), h)
            all_of_them = shifts(lm, texts.read, clean, layer, texts.keep, delta)
            ends = [0, *accumulate(map(len, here.values()))]
            for family, (a, b) in zip(here, pairwise(ends), strict=True):
                pushes = all_of_them.part(slice(a, b))
                yield from self._growth(at, family, pushes)
                if layer == self.damped_from and family in (self.damped or ()):
                    yield from self._damping(lm, at, family, texts, clean, pushes)
        if self.power_steps:
            yield from self._worst(lm, at, texts, clean)

    def _growth(self, at: At, family: str, pushes: Shifts) -> Iterator[Row]:
        """Means over prompts and draws, one row a measure; none where nothing was pushed."""
        moved = pushes.gain()[0].isfinite()
        for measure, values in pushes.measures().items() if moved.any() else ():
            means = values[:, moved].mean(1).tolist()
            yield self._row(at, family, pushes.start, measure, means, int(moved.sum()))

    def _row(
        self, at: At, family: str, layer: int, measure: str, values: list[float], n: int
    ) -> Row:
        return Amplification(
            stage=at.stage,
            step=at.step,
            reference=at.reference,
            group="hazard",
            family=family,  # type: ignore[arg-type]
            epsilon=0.0 if family == "worst" else self.epsilon,
            positions=self.positions,
            from_layer=layer,
            measure=measure,  # type: ignore[arg-type]
            n=n,
            values=values,
        )

    def _damping(
        self, lm: HookedLM, at: At, family: str, texts: PushedTexts, clean: Tensor, pushes: Shifts
    ) -> Iterator[Row]:
        """How much smaller the push ends for a damper at each layer from its own up."""
        before = pushes.gain()[-1]
        moved = before.isfinite()
        if len(texts.read) < 2 or not moved.any():
            return
        found: dict[str, list[float]] = {"fall": [], "control": [], "side_effect": []}
        for k in range(len(pushes.clean)):
            own = fitted(pushes.values[k], pushes.clean[k], pushes.lengths)
            layer = pushes.start + k
            for name, directions in (
                ("fall", own),
                ("control", any_direction(own, "damper", self.seed, layer)),
            ):
                after, side = damp(lm, texts.read, clean, texts.keep, pushes, layer, directions)
                found[name].append(1 - float(after[moved].mean() / before[moved].mean()))
                if name == "fall":
                    found["side_effect"].append(float(side.mean()))
        for measure, values in found.items():
            yield Damper(
                stage=at.stage,
                step=at.step,
                reference=at.reference,
                group="hazard",
                family=family,  # type: ignore[arg-type]
                epsilon=self.epsilon,
                positions=self.positions,
                from_layer=pushes.start,
                measure=measure,  # type: ignore[arg-type]
                n=int(moved.sum()),
                values=values,
            )

    def _worst(self, lm: HookedLM, at: At, texts: PushedTexts, clean: Tensor) -> Iterator[Row]:
        for start, stream in enumerate(clean):
            largest = [
                sigma_max(lm, texts.read, stream, start, stop, texts.keep, self.power_steps)
                for stop in range(start, lm.n_layers + 1)
            ]
            means = [float(x.mean()) for x in largest]
            yield self._row(at, "worst", start, "gain", means, len(texts.read))

    def _random(self, texts: PushedTexts, d_model: int, layer: int) -> Pushes:
        lengths, key = texts.keep.sum(1).tolist(), ("amplification", self.seed, layer)
        return random_directions(texts.read.examples, lengths, d_model, self.draws, *key)
