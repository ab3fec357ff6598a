"""What two checkpoints would say at each response position: KL, entropy, likelihood, refusal.

Qi et al., "Safety alignment should be made more than just a few tokens deep", ICLR 2025,
arXiv:2406.05946: KL(aligned ‖ base) on harmful answers is spent on the first few tokens.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor, nn

from workbench.errors import InvalidValueError
from workbench.final_states import FinalStates, begun, final_states
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.probes._refusals import refusal_starts
from workbench.probes._survivors import by_position
from workbench.rows import Row, TokenKL, TokenMover, TokenStatistics
from workbench.shallowness import budget_share
from workbench.vocabulary_pass import CHUNK, compare
from workbench.vocabulary_terms import jensen_shannon, movers

__all__ = ["VocabularyPass", "budget_share"]

FIRST_MOVED = 8
"""At so many first positions the tokens that moved are kept."""
MOVED = 1e-3
"""A token moved if its probability changed by this much."""


@dataclass(frozen=True, kw_only=True)
class VocabularyPass(Probe):
    """KL and other properties of next-token predictions at every position of fixed answers.

    KL_k = Σ_v p(v|x,y_<k) log(p/q) at response position k of a fixed answer y (nats), p the
    checkpoint and q the reference; of each of them entropy, −log p(y_k), 1 − Σ p² and the
    probability of the tokens that begin the panel's own refusals and none of its compliant answers.
    Of each checkpoint the final states are read once, and the vocabulary a slice at a time.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (TokenKL, TokenStatistics, TokenMover)

    positions: int = 64
    """Response positions that are read, from the first; longer responses are cut."""
    js: bool = False
    """Whether to measure the Jensen-Shannon divergence, too, which takes a second pass."""
    movers: int = 2
    """Prompts of each kind whose most moved tokens are kept; 0 for none."""
    top: int = 5
    """How many moved tokens are kept at a position."""
    chunk: int = CHUNK
    """Tokens of the vocabulary that are read at a time; changes only time and memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("positions", 1), ("movers", 0), ("top", 1), ("chunk", 1)):
            if getattr(self, name) < least:
                raise InvalidValueError(
                    f"{name} must be at least {least}, not {getattr(self, name)}."
                )

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Read this reference's final states and keep its head."""
        if reference is None:
            raise InvalidValueError("KL is with a reference's distribution; give one.")
        batches = {group: begun(panel.batch(group), self.positions) for group in panel.groups}
        then = {g: final_states(reference, batch, own_head=True) for g, batch in batches.items()}
        refusals = refusal_starts(panel)

        def measure(model: nn.Module, at: At) -> list[Row]:
            rows: list[Row] = []
            for group, batch in batches.items():
                where = asdict(at) | {"group": group}
                now = final_states(model, batch)
                rows += self._rows(now, then[group], refusals, where)
                rows += self._moved(now, then[group], panel.tokenizer, where)
            return rows

        return measure

    def _rows(
        self,
        now: FinalStates,
        then: FinalStates,
        refusals: Int[Tensor, " token"] | None,
        where: dict[str, Any],
    ) -> Iterator[Row]:
        """The divergences of every prompt, and statistics of each model over prompts."""
        seen = compare(now, then, refusals, chunk=self.chunk)
        divergences = {"forward_kl": seen.forward_kl, "reverse_kl": seen.reverse_kl}
        if self.js:
            divergences["js"] = jensen_shannon(now, then, seen, chunk=self.chunk)
        for measure, values in divergences.items():
            for example, part in zip(now.examples, now.by_example(values), strict=True):
                yield TokenKL(example=example, measure=measure, values=part.tolist(), **where)  # type: ignore[arg-type]
        for whose, each in (("checkpoint", seen.p), ("reference", seen.q)):
            for measure in ("entropy", "nll", "gini", "refusal_mass"):
                if measure != "refusal_mass" or refusals is not None:
                    values = each.mass if measure == "refusal_mass" else getattr(each, measure)
                    told = by_position(now.by_example(values))
                    yield TokenStatistics(whose=whose, measure=measure, **told, **where)  # type: ignore[arg-type]

    def _moved(
        self, now: FinalStates, then: FinalStates, tokenizer: Any, where: dict[str, Any]
    ) -> Iterator[TokenMover]:
        """The most moved tokens of the first prompts."""
        if not self.movers:
            return
        now, then = (x.first(self.movers, FIRST_MOVED) for x in (now, then))
        found = movers(now, then, self.top, chunk=self.chunk)
        pieces = tokenizer.convert_ids_to_tokens
        places = [(x, k) for x, n in zip(now.examples, now.lengths, strict=True) for k in range(n)]
        for row, (example, position) in enumerate(places):
            for token, p, q, term in zip(*(x[row].tolist() for x in found.columns), strict=True):
                if abs(p - q) >= MOVED:
                    yield TokenMover(
                        example=example,
                        position=position,
                        token=token,
                        piece=pieces(token) or "",
                        p=p,
                        q=q,
                        contribution=term,
                        **where,
                    )
