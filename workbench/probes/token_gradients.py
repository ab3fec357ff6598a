"""Per-token gradient norms: which response tokens pull at the weights, and at which of them.

Qi, Panda, Lyu, Ma, Roy, Beirami, Mittal & Henderson, "Safety alignment should be made more than
just a few tokens deep", ICLR 2025, arXiv:2406.05946: on harmful answers an aligned model's
gradients are largest at the first few tokens, and a few steps of an attack spend them.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from workbench.errors import InvalidValueError
from workbench.gradient_factors import TOTAL
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.rows import Row, TokenGradient
from workbench.token_gradients import TokenGradients, token_gradient_norms


@dataclass(frozen=True, kw_only=True)
class TokenGradientNorms(Probe):
    """‖∇ −log p(y_k | x, y_<k)‖ for the first response tokens of fixed answers, by block."""

    writes: ClassVar[tuple[type[Row], ...]] = (TokenGradient,)
    needs_reference: ClassVar[bool] = False

    tokens: int = 16
    """So many response tokens of each answer (the paper's K is 50)."""
    prompts: int = 4
    """So many prompts of each kind; each token costs about a backward pass."""
    chunk: int = 16
    """Tokens that go backward together; fewer take less memory."""
    frozen: bool = False
    """Whether parameters that do not require gradients count too, e.g. those below an adapter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "prompts", "chunk"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Get ready; the reference is not looked at."""
        size = min(self.prompts, panel.size)

        def measure(model: nn.Module, at: At) -> list[Row]:
            return [
                TokenGradient(
                    stage=at.stage,
                    step=at.step,
                    example=found.example,
                    group=group,
                    part=part,
                    measure=measure,  # type: ignore[arg-type]
                    values=values,
                )
                for group in panel.groups
                for found in token_gradient_norms(
                    model,
                    panel.batch(group, size),
                    tokens=self.tokens,
                    chunk=self.chunk,
                    frozen=self.frozen,
                )
                for part, measure, values in _curves(found)
            ]

        return measure


def _curves(found: TokenGradients) -> list[tuple[str, str, list[float]]]:
    norms = [
        (part, "norm", row.tolist()) for part, row in zip(found.parts, found.norms, strict=True)
    ]
    return [*norms, (TOTAL, "nll", found.nll.tolist())]
