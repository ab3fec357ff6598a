"""Logit lens: what each layer would say if it were the last, alone and beside the reference.

Belrose et al., "Eliciting latent predictions from transformers with the tuned lens", preprint 2023,
arXiv:2303.08112, after nostalgebraist's "interpreting GPT: the logit lens" (2020): the final norm
and the head, applied to the residual stream after any block.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.final_states import FinalStates, begun, final_states
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.probes._refusals import refusal_starts
from workbench.probes._survivors import spread
from workbench.rows import LensByLayer, Row
from workbench.states import MICRO_BATCH
from workbench.vocabulary_pass import CHUNK, compare

Measures = Mapping[str, Float[Tensor, "layer row"]]


@dataclass(frozen=True, kw_only=True)
class LogitLens(Probe):
    """lens_l = softmax(W_U norm(h_l)) at the last prompt token and the first response tokens.

    By layer, 0 the embeddings and the last the model's own output: KL(lens_l ‖ output), entropy,
    −log p and rank of the token that follows, probability of beginning a refusal, share of prompts
    whose likeliest token is that of the output from this layer on, and KL from the same layer of
    the reference, if one is given.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (LensByLayer,)
    needs_reference: ClassVar[bool] = False

    positions: int = 4
    """Response positions that are predicted, from the first (read at the last prompt token)."""
    chunk: int = CHUNK
    """Tokens of the vocabulary that are read at a time; changes only time and memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("positions", "chunk"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Read the reference's lens once."""
        batches = {group: begun(panel.batch(group), self.positions) for group in panel.groups}
        refusals = refusal_starts(panel)
        then, of_reference = {}, {}
        if reference is not None:
            then = {g: lens_states(reference, b, own_head=True) for g, b in batches.items()}
            of_reference = {g: lens(layers, refusals, self.chunk) for g, layers in then.items()}

        def measure(model: nn.Module, at: At) -> list[Row]:
            rows: list[Row] = []
            for group, batch in batches.items():
                where = asdict(at) | {"group": group}
                now = lens_states(model, batch)
                found = dict(lens(now, refusals, self.chunk))
                if group in then:
                    found["kl_to_reference"] = between(now, then[group], self.chunk)
                    rows += _rows(of_reference[group], batch, "reference", where)
                rows += _rows(found, batch, "checkpoint", where)
            return rows

        return measure


@torch.no_grad()
def lens_states(model: nn.Module, batch: Batch, *, own_head: bool = False) -> list[FinalStates]:
    """The residual stream before every block and after the last, each behind the final norm.

    The last entry is what the model's own head sees; arguments and errors are those of
    `final_states`.
    """
    last = final_states(model, batch, own_head=own_head)
    lm = HookedLM(model, check=False)
    names = lm.resolve("resid_pre.0", *(f"resid_post.{i}" for i in range(lm.n_layers - 1)))
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with evaluating(lm.model):
        for part in batch.split(MICRO_BATCH):
            with lm.record(*names, select=lambda x, _, p=part: _scored(x, p)) as acts:  # type: ignore[misc]
                lm.stream(part)
            for name in names:
                parts[name].append(last.head.norm(acts[name]).cpu())
    return [*(replace(last, values=torch.cat(parts[name])) for name in names), last]


def lens(
    layers: list[FinalStates], refusals: Int[Tensor, " token"] | None, chunk: int = CHUNK
) -> Measures:
    """Every measure of one model's lens, each [layer, row]."""
    seen = [compare(layer, layers[-1], refusals, chunk=chunk, ranked=True) for layer in layers]
    best = torch.stack([_asked(x.p.best) for x in seen])
    found = {
        "kl_to_final": [x.forward_kl for x in seen],
        "entropy": [x.p.entropy for x in seen],
        "nll": [x.p.nll for x in seen],
        "rank": [_asked(x.p.rank).double() for x in seen],
        "committed": list(from_here_on(best == best[-1]).double()),
    }
    if refusals is not None:
        found["refusal_mass"] = [x.p.mass for x in seen]
    return {name: torch.stack(values) for name, values in found.items()}


def between(
    now: list[FinalStates], then: list[FinalStates], chunk: int = CHUNK
) -> Float[Tensor, "layer row"]:
    """KL(lens_l of one model ‖ lens_l of another), each through its own norm and head.

    Raises:
        InvalidValueError: models of different depths.
    """
    if len(now) != len(then):
        raise InvalidValueError(
            f"the checkpoint has {len(now) - 1} blocks, the reference {len(then) - 1}: their "
            "layers do not correspond. Leave the reference out, or give one of the same family."
        )
    pairs = zip(now, then, strict=True)
    return torch.stack([compare(p, q, chunk=chunk).forward_kl for p, q in pairs])


def from_here_on(agrees: Bool[Tensor, "layer row"]) -> Bool[Tensor, "layer row"]:
    """Whether a layer and all later ones agree; the first such layer is that of commitment."""
    return agrees.flip(0).long().cummin(0).values.flip(0).bool()


def _asked(ranked: Tensor | None) -> Tensor:
    if ranked is None:
        raise ValueError("the pass was not asked for ranks")
    return ranked


def _scored(x: Tensor, batch: Batch) -> Tensor:
    return x[:, :-1][batch.scored.to(x.device)]


def _rows(
    found: Measures, batch: Batch, whose: Literal["checkpoint", "reference"], where: dict[str, Any]
) -> Iterator[LensByLayer]:
    """One row a measure and position, over the prompts that reach it."""
    place = torch.cat([torch.arange(n) for n in batch.scored.sum(1).tolist()])
    for measure, values in found.items():
        for position in place.unique().tolist():
            grid = values[:, place == position].T.double()
            yield LensByLayer(
                whose=whose,
                position=position,
                measure=measure,  # type: ignore[arg-type]
                prompts=len(grid),
                **spread(grid),
                **where,
            )
