"""Two ways to do the same thing, timed in turn, and what that says about their ratio.

The machine is shared and its speed drifts, so a time alone means little. One round times ours and
the peer one right after the other, in an order that alternates; the drift is common to both and
leaves their ratio alone. The figure is the median over rounds.

Two clocks run. CPU time of the process leaves out what other processes took, and is the right one
where nothing waits; torch has one thread, so it adds up no parallel work. Wall time counts where
waiting for the disk is part of the work.
"""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.profiler import ProfilerActivity, profile

Clock = Literal["cpu", "wall"]
Work = Callable[[], object]
CLOCKS: dict[Clock, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Figure:
    """What was found: one number, how sure it is, and how it was measured."""

    value: float
    upper95: float | None = None
    """Upper 95 % confidence bound of `value`; None of what was measured once."""
    ours: float | None = None
    peer: float | None = None
    limit_value: float | None = None
    configuration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paired:
    """Times of ours and of the peer (s a call), round by round, by each clock."""

    ours: dict[Clock, np.ndarray]
    peer: dict[Clock, np.ndarray]
    clock: Clock

    def figure(
        self,
        configuration: dict[str, Any],
        *,
        inverse: bool = False,
        limit_value: float | None = None,
        amount: float | None = None,
    ) -> Figure:
        """The median ratio ours / peer with its bound.

        Args:
            configuration: what was measured; how it was measured is added.
            inverse: peer / ours instead, for ratios that say how much faster ours is.
            limit_value: the theoretical floor of the ratio.
            amount: how much work a call does; `ours` and `peer` are then amount / s.
        """
        ratios = self.ratios(self.clock, inverse)
        other: Clock = "wall" if self.clock == "cpu" else "cpu"
        times = [float(np.median(side[self.clock])) for side in (self.ours, self.peer)]
        ours, peer = times if amount is None else [amount / t for t in times]
        how = {
            "clock": self.clock,
            "rounds": len(ratios),
            "middle_90_percent": [round(float(x), 4) for x in np.quantile(ratios, (0.05, 0.95))],
            f"{other}_clock_ratio": round(float(np.median(self.ratios(other, inverse))), 4),
        }
        return Figure(
            value=float(np.median(ratios)),
            upper95=upper_bound(ratios),
            ours=ours,
            peer=peer,
            limit_value=limit_value,
            configuration=configuration | how,
        )

    def grouped(self, size: int) -> "Paired":
        """Every `size` consecutive rounds as one, for work that is dear once in so many calls."""

        def summed(side: dict[Clock, np.ndarray]) -> dict[Clock, np.ndarray]:
            return {clock: times.reshape(-1, size).sum(1) for clock, times in side.items()}

        return Paired(summed(self.ours), summed(self.peer), self.clock)

    def ratios(self, clock: Clock, inverse: bool = False) -> np.ndarray:
        """One ratio a round."""
        ratios = self.ours[clock] / self.peer[clock]
        return 1 / ratios if inverse else ratios


def interleaved(
    ours: Work,
    peer: Work,
    *,
    rounds: int,
    calls: int = 1,
    warmup: int = 3,
    clock: Clock = "cpu",
    before: Work | None = None,
) -> Paired:
    """Time two functions in turn.

    Args:
        ours: a function without arguments.
        peer: the same of the peer.
        rounds: how often each is timed.
        calls: how often each is called at a time; more where a call takes under a few ms.
        warmup: rounds that are not counted.
        clock: which clock the figure speaks of.
        before: called before each timing, untimed.
    """
    times: dict[Work, list[tuple[float, ...]]] = {ours: [], peer: []}
    with settled():
        for k in range(warmup + rounds):
            for work in (ours, peer) if k % 2 else (peer, ours):
                if before is not None:
                    before()
                times[work].append(timed(work, calls))
            if k == warmup:
                gc.collect()
                gc.freeze()
    counted = {work: np.array(found[warmup:]).T for work, found in times.items()}
    by_clock = {work: dict(zip(CLOCKS, both, strict=True)) for work, both in counted.items()}
    return Paired(by_clock[ours], by_clock[peer], clock)


def timed(work: Work, calls: int = 1) -> tuple[float, ...]:
    """Seconds a call by each clock, in the order of `CLOCKS`."""
    start = [clock() for clock in CLOCKS.values()]
    for _ in range(calls):
        work()
    return tuple((clock() - t) / calls for clock, t in zip(CLOCKS.values(), start, strict=True))


@contextmanager
def settled() -> Iterator[None]:
    """What lives already is no business of the garbage collector while we measure."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def upper_bound(values: np.ndarray, seed: int = 0) -> float:
    """Upper 95 % confidence bound (one-sided) of the median, by the percentile bootstrap.

    Efron, Annals of Statistics 7 (1979). Resampling draws its own random numbers.
    """
    draws = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    return float(np.quantile(np.median(draws, axis=1), 0.95))


def peak_live_bytes(work: Work) -> int:
    """Largest sum of live tensor memory while `work` runs, beyond what was there before (CPU)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    return int(max(np.cumsum([size for _, size in changes]), default=0))
