"""Cosine and norms between two checkpoints, layer × token, and where hazards break away.

Zou et al., "Improving alignment and robustness with circuit breakers", NeurIPS 2024,
arXiv:2406.04313, section 4 and its analysis of representations: on one fixed sequence, a harmful
prompt with a prefilled harmful answer, the cosine of a rerouted model's states with the original's
collapses at some layer and token, while that of benign text does not.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import nn

from workbench.errors import InvalidValueError, WorkbenchWarning
from workbench.final_states import require_responses
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, StateProbe
from workbench.probes._cosine import Field, compared, over_prompts
from workbench.probes._groups import available
from workbench.probes._permutation import REACHED, falls_below
from workbench.rows import BreakPoint, CosineProfile, Group, LayerCosine, Row, TokenCosine
from workbench.states import StatesOf

READ: tuple[Group, ...] = ("hazard", "benign", "framed")
COMPARED: tuple[Group, ...] = ("hazard", "framed")
"""Groups that are held against benign prompts."""
PromptTokens = Mapping[Group, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Cosine(StateProbe):
    """How alike two checkpoints' states are at every layer and token, and where they part.

    At every token of prompt and fixed response: cos(h_ref, h), ‖h‖ and ‖h_ref‖. The break point is
    the first layer, and in it the first response token, at which the cosine on hazards lies
    significantly below that on benign prompts (largest studentised difference over all layers and
    tokens, by permutation of the prompts). The same for hazards in a frame, which hide what is
    asked: a break that a frame undoes can be talked around.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (TokenCosine, CosineProfile, LayerCosine, BreakPoint)

    positions: Literal["all", "response"] = "all"
    """`all`: prompt and response; `response` alone suffices for the break point."""
    prompts_kept: int = 4
    """Hazards whose whole layer × token map is kept; of the others, statistics are."""
    alpha: float = 0.05
    """Family-wise error over all layers and tokens at which a break is reported."""
    permutations: int = 1000
    """Random relabellings of the prompts."""
    seed: int = 0
    """Of the permutations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in ("all", "response"):
            raise InvalidValueError(
                f"cosine reads positions 'all' or 'response', not {self.positions!r}: a break "
                "point needs every response token."
            )
        if not 0 < self.alpha < 1:
            raise InvalidValueError(f"alpha is an error rate between 0 and 1, not {self.alpha}.")
        if self.permutations + 1 < 1 / self.alpha:
            raise InvalidValueError(
                f"{self.permutations} permutations cannot give p ≤ {self.alpha}; the least p is "
                f"1 / (permutations + 1). Use at least {round(1 / self.alpha)}, better 1000."
            )
        if self.prompts_kept < 0:
            raise InvalidValueError(f"prompts_kept must be 0 or more, not {self.prompts_kept}.")

    def groups(self, panel: Panel) -> tuple[Group, ...]:
        """Hazards, benign prompts and framed hazards, as far as the domain has them."""
        return available(panel, READ)

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Read the reference's states once, and those of every checkpoint as it comes."""
        if reference is None:
            raise InvalidValueError("cosines are with a reference's states; give one.")
        prompts: dict[Group, tuple[int, ...]] = {}
        for group in self.groups(panel) if self.positions == "all" else ():
            batch = panel.batch(group)
            require_responses(batch)
            lengths = (batch.attention_mask & ~batch.response_mask).sum(1)
            prompts[group] = tuple(lengths.tolist())
        compare = self._against(self._read(reference, panel), prompts)
        return lambda model, at: compare(self._read(model, panel), at)

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Compare with recorded states of the response.

        Raises:
            InvalidValueError: with prompts recorded too, nothing says where the response begins.
        """
        if self.positions != "response":
            raise InvalidValueError(
                "a recording of whole texts does not say where their responses begin. Record with "
                "positions='response' and give --positions response, or give --model."
            )
        return self._against(then, {})

    def _against(
        self, then: StatesOf, prompts: PromptTokens
    ) -> Callable[[StatesOf, At], list[Row]]:
        _note_without_benign({group for group, _ in then})

        def compare(now: StatesOf, at: At) -> list[Row]:
            rows: list[Row] = []
            for site in self.sites:
                fields = {
                    group: compared(
                        now[group, site],
                        then[group, site],
                        prompts.get(group) or (0,) * len(now[group, site].examples),
                    )
                    for group in READ
                    if (group, site) in now
                }
                rows += self._rows(fields, {"site": site, **vars(at)})
            return rows

        return compare

    def _rows(self, fields: dict[Group, dict[str, Field]], place: dict[str, Any]) -> Iterator[Row]:
        for group, measures in fields.items():
            for measure, field in measures.items():
                told = {**place, "group": group, "measure": measure}
                yield from _maps(field, told, self.prompts_kept if group == "hazard" else 0)
                yield from _profiles(field, told)
                yield from _layers(field, told)
        if "benign" in fields:
            benign = fields["benign"]["cosine"]
            for group in COMPARED:
                if group in fields:
                    told = {**place, "group": group}
                    yield from self._break(fields[group]["cosine"], benign, told)

    def _break(self, group: Field, benign: Field, told: dict[str, Any]) -> Iterator[Row]:
        """Where the group falls below benign prompts; nothing where there are too few prompts."""
        mine, other = group.responses(), benign.responses()
        tokens = min(mine.shape[2], other.shape[2])
        cells = [x[:, :, :tokens].reshape(len(x), -1) for x in (mine, other)]
        fall = falls_below(*cells, alpha=self.alpha, permutations=self.permutations, seed=self.seed)
        if fall is None:
            return
        low = fall.significant.reshape(-1, tokens)
        told |= {"n": len(mine)}
        layer, token = divmod(fall.peak, tokens)
        numbers = {
            "p": fall.p,
            "statistic": float(fall.differences.max()),
            "critical": fall.critical,
            "peak_layer": layer,
            "peak_token": token,
        }
        if low.any():
            layer = int(low.any(1).argmax())
            token = int(low[layer].argmax())
            numbers |= {"layer": layer, "token": token, "onset": int(low.any(0).argmax())}
        cell = layer * tokens + token
        numbers["cosine"], numbers["benign"] = (float(np.nanmean(x[:, cell])) for x in cells)
        numbers["threshold"] = numbers["benign"] - fall.critical * float(fall.errors[cell])
        for measure, value in numbers.items():
            yield BreakPoint(**told, measure=measure, value=float(value))  # type: ignore[arg-type]


def _note_without_benign(groups: Set[str]) -> None:
    """Say that there will be no break point where nothing benign is there to break away from."""
    if "benign" not in groups and not groups.isdisjoint(COMPARED):
        warnings.warn(
            "cosine gives no break point: there are no benign prompts to hold hazards against "
            "(in a data folder they are `ref` or `benign`). Cosines and norms are given.",
            WorkbenchWarning,
            stacklevel=4,
        )


def _digits(values: Float[np.ndarray, " position"]) -> list[float]:
    """Four digits, which is what a picture can show; files are half as large."""
    return [float(f"{x:.4g}") for x in values]


def _maps(field: Field, told: dict[str, Any], kept: int) -> Iterator[Row]:
    """The whole layer × token map of the first prompts."""
    for example, prompt_tokens, values in list(
        zip(field.examples, field.prompt_tokens, field.values, strict=True)
    )[:kept]:
        for layer, line in enumerate(values):
            yield TokenCosine(
                **told, example=example, layer=layer, prompt_tokens=prompt_tokens,
                values=_digits(line),
            )  # fmt: skip


def _profiles(field: Field, told: dict[str, Any]) -> Iterator[Row]:
    """Statistics over prompts at each response position; of norms, the mean is enough."""
    for statistic, prompts, values in over_prompts(field.responses(), REACHED):
        if statistic == "mean" or told["measure"] == "cosine":
            for layer, line in enumerate(values):
                yield CosineProfile(
                    **told, layer=layer, statistic=statistic,  # type: ignore[arg-type]
                    prompts=prompts.tolist(), values=_digits(line),
                )  # fmt: skip


def _layers(field: Field, told: dict[str, Any]) -> Iterator[Row]:
    """Each example's mean over its response."""
    for example, n, values in zip(field.examples, field.prompt_tokens, field.values, strict=True):
        yield LayerCosine(**told, example=example, values=values[:, n:].mean(1).tolist())
