"""Live progress of a study: which units run, how far they are, how long it may still take."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from workbench.store import Store

REFRESH = 0.5  # seconds


class Line(Protocol):
    """Something that can say that a unit ended."""

    def __call__(self, chain: str, units: Iterable[str], error: str | None, /) -> None:
        """Note the end of a chain of units, well or with an error."""


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(42), clock(135), clock(4000)
    ('42 s', '2 min 15 s', '1 h 7 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def watching(
    store: Store, units: Mapping[str, float], console: Console, title: str
) -> Iterator[Line]:
    """Show how far the units (run id to weight) are while the block runs.

    On a terminal a bar follows the `status.json` of the running units; elsewhere there is one line
    an ended unit. The estimate assumes that the rest goes at the pace so far.
    """
    if not units:
        yield lambda chain, units, error: None
        return
    view = _View(store, units, time.monotonic())
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(REFRESH):
            share = view.share()
            bar.update(task, completed=share, left=view.left(share))

    def line(chain: str, ended: Iterable[str], error: str | None) -> None:
        view.done.update(ended)
        count, left = f"{len(view.done):>3}/{len(units)}", view.left(view.share())
        note = "done" if error is None else f"[red]failed: {escape(error)}[/red]"
        console.print(f"  {count}  {chain:<22} {note}  [dim]{left}[/dim]", highlight=False)

    with bar:
        task = bar.add_task(title, total=1.0, left="")
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield line
        finally:
            stop.set()
            thread.join()


class _View:
    """What is known of the units' progress."""

    def __init__(self, store: Store, units: Mapping[str, float], started: float):
        self.store, self.units, self.started = store, units, started
        self.done: set[str] = set()

    def share(self) -> float:
        """Weighted share of the work that is done."""
        return sum(w * self._part(u) for u, w in self.units.items()) / sum(self.units.values())

    def left(self, share: float) -> str:
        """The estimate in words."""
        elapsed = time.monotonic() - self.started
        if share >= 1.0:
            return f"done in {clock(elapsed)}"
        return f"about {clock(elapsed * (1 - share) / share)} left" if share > 0.02 else ""

    def _part(self, unit: str) -> float:
        if unit in self.done:
            return 1.0
        status = self.store.status(unit)
        return status["step"] / max(status["total"], 1) if status else 0.0
