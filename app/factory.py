"""The Dash app over one store."""

import logging
from functools import partial
from pathlib import Path

from dash import Dash
from dash.exceptions import DashException

from app import address, downloads, panels, router, runs_table, security, shell
from app.pages import PAGES
from app.reading import Reader

HERE = Path(__file__).parent
LOG = logging.getLogger("app")


def create_app(
    store_root: str | Path,
    *,
    token: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8050,
    example: bool = False,
) -> Dash:
    """The dashboard over a store, ready to serve.

    Args:
        store_root: a folder of run folders; it may be empty, or not exist yet.
        token: what a browser must show to be let in; None lets everybody in who reaches the port.
        host: the address it will be served on: the only one, beside loopback, it answers to.
        port: the port it will be served on.
        example: say in the top bar that this is the shipped example.

    Raises:
        RunError: the store is a file.
    """
    reader = Reader(store_root)
    app = Dash(
        "app",
        title=shell.TITLE,
        update_title="",
        assets_folder=str(HERE / "assets"),
        serve_locally=True,
        suppress_callback_exceptions=True,  # pages bring their own panels
        enable_mcp=False,
        add_log_handler=False,
        on_error=_log,
    )
    app.layout = partial(shell.layout, reader, example)  # anew for every page load
    for part in (address, router, panels, runs_table, downloads):
        part.register(app, reader)
    for page in PAGES.values():
        if page.register is not None:
            page.register(app, reader)
    security.protect(app, host=host, port=port, token=token)
    return app


def _log(error: Exception) -> None:
    """A callback that fails is a fault of ours: it goes to the log and to the browser as one."""
    LOG.exception("a callback failed", exc_info=error)
    raise DashException(f"{type(error).__name__}: {error}") from error
