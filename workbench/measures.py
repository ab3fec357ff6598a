"""What is measured of a run, on which split, and at which steps."""

from dataclasses import dataclass

from workbench.domains import Split
from workbench.positions import Positions

CURVE = (0, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 80, 96)
"""Attack steps at which checkpoints are measured: dense where curves of the lab models rise."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured, on which split, and when."""

    split: Split = "test"
    """`val` while tuning, `test` for what is reported."""
    curve_at: tuple[int, ...] = CURVE
    """Attack steps at which f and g are measured; the last step of the budget always is."""
    probe_at: tuple[int, ...] = (0, 8, 16, 32, 64)
    """Attack steps at which the study's probes run; the last step always is one of them."""
    panel: int = 32
    """Prompts of each kind that probes and recordings look at."""
    record_at: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Shares of a defence or attack after which the panel's activations are recorded."""
    record_sites: tuple[str, ...] = ("resid_post",)
    record_positions: Positions = "last_prompt"
    """Which tokens are recorded; `response` is what the cosine probe reads, at more bytes."""
    prefill: int = 0
    """Most tokens of a compliant answer that a released model is given; 0 measures no prefills."""
    limit: int | None = None
    """At most so many questions of each kind; None for all."""

    def steps(self, wanted: tuple[int, ...], budget: int) -> tuple[int, ...]:
        """The wanted steps that lie within a budget, and the budget itself."""
        return tuple(sorted({s for s in wanted if s < budget} | {0, budget}))

    def record_steps(self, budget: int) -> tuple[int, ...]:
        """Optimiser steps at which activations are recorded."""
        return tuple(sorted({round(share * budget) for share in self.record_at}))
