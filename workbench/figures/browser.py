"""The browser that turns figures into pictures: found on this machine, started once, reused.

Kaleido drives a system Chromium. MathJax is off: Kaleido would fetch it from a server, and without
it text between dollar signs would be drawn as raw TeX. Only figures drawn here are ever rendered,
because that browser runs without its sandbox.
"""

import asyncio
import atexit
import logging
import os
import shutil
import subprocess
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock, Thread, Timer
from typing import Any, Literal

import plotly.graph_objects as go

from workbench.errors import WorkbenchError

Format = Literal["pdf", "svg", "png"]
PNG_SCALE = 300 / 96
"""Dots a px: 300 dots an inch at the size of the page."""
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome",
         "microsoft-edge")  # fmt: skip
REMEDIES = (
    "install Chromium (Debian and Ubuntu: apt-get install chromium fonts-liberation); or point "
    "BROWSER_PATH at a Chromium, Chrome or Edge; or run the same command on a machine that has "
    "one, with a copy of the store (no torch is needed there)"
)


class BrowserError(WorkbenchError):
    """There is no browser, or it did not draw; the message names the remedies."""


def browser_path() -> Path | None:
    """The browser pictures are made with; None if there is none."""
    given = os.environ.get("BROWSER_PATH")
    names = (given,) if given else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    return None if found is None else Path(found)


def browser_version() -> str:
    """What the browser says it is."""
    path = browser_path()
    return "none" if path is None else _version(path)


@cache
def _version(path: Path) -> str:
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.strip() or "unknown"


class Browser:
    """A browser that starts with the first picture and serves any number, from any thread.

    Args:
        idle: stop after so many seconds without work (it starts again when needed); None never.
    """

    def __init__(self, idle: float | None = None):
        self._idle, self._lock = idle, Lock()
        self._loop: Any = None
        self._kaleido: Any = None
        self._timer: Timer | None = None

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether a browser is held now."""
        return self._kaleido is not None

    def picture(self, figure: go.Figure, form: Format, width: float, height: float) -> bytes:
        """Draw a figure at a size in px (96 an inch).

        Raises:
            BrowserError: there is no browser, it does not start, or it does not draw.
        """
        scale = PNG_SCALE if form == "png" else 1
        opts = {"format": form, "width": width, "height": height, "scale": scale}
        with self._lock:
            try:
                self._start()
                return self._wait(self._kaleido.calc_fig(figure.to_dict(), opts=opts))
            except BrowserError:
                raise
            except Exception as error:
                self._stop()
                why = f"{type(error).__name__}: {error}"
                raise BrowserError(
                    f"the browser did not draw ({why:.300}). Try again, or: {REMEDIES}."
                ) from error
            finally:
                self._rest()

    def close(self) -> None:
        """Stop the browser; the next picture starts it again."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        if self._kaleido is not None:
            return
        path = browser_path()
        if path is None:
            given = os.environ.get("BROWSER_PATH")
            told = f" at BROWSER_PATH={given}" if given else ""
            raise BrowserError(f"no browser was found{told}, so no pictures: {REMEDIES}.")
        import kaleido  # takes half a second, and only pictures need it

        logging.getLogger("choreographer").setLevel(logging.CRITICAL)  # it logs its own goodbye

        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True, name="figures-browser").start()
        atexit.register(self.close)

        async def open_browser() -> Any:
            return await kaleido.Kaleido(n=1, mathjax=False, path=str(path)).__aenter__()

        self._kaleido = self._wait(open_browser())

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=120)

    def _rest(self) -> None:
        """Begin to count idle seconds."""
        if self._timer is not None:
            self._timer.cancel()
        if self._idle is not None and self._kaleido is not None:
            self._timer = Timer(self._idle, self.close)
            self._timer.daemon = True
            self._timer.start()

    def _stop(self) -> None:
        atexit.unregister(self.close)
        kaleido, self._kaleido = self._kaleido, None
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if kaleido is not None:
            with suppress(Exception):  # it may be dead already
                end = kaleido.__aexit__(None, None, None)
                asyncio.run_coroutine_threadsafe(end, loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
