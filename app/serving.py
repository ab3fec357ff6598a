"""Serving the app on this machine: a token, a free port, one address to open."""

import errno
import secrets
import socket
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, make_server

from app.factory import create_app
from app.security import TOKEN, is_loopback
from workbench.errors import InvalidValueError, WorkbenchError


class PortTakenError(WorkbenchError):
    """Another program listens where the app was to listen."""


def server(
    store: Path, *, host: str, port: int, with_token: bool, example: bool = False
) -> tuple[BaseWSGIServer, str]:
    """A server that listens already, and the address to open.

    Args:
        store: the folder of run folders.
        host: an address of this machine, not a wildcard.
        port: 0 for any free one.
        with_token: whether a browser needs the token of the address.
        example: whether the store is the shipped example.

    Raises:
        InvalidValueError: a wildcard address, or one that others reach and no token.
        PortTakenError: the port is in use.
    """
    if host in ("", "0.0.0.0", "::", "[::]"):
        raise InvalidValueError(
            f"host {host!r} stands for every address of this machine, so the app could not tell "
            "its own address from a forged one. Name one address; better still, leave it and use "
            f"ssh -L {port}:127.0.0.1:{port}."
        )
    if not (with_token or is_loopback(host)):
        raise InvalidValueError(
            f"{host} can be reached from other machines, so --no-token is refused there."
        )
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24) if with_token else None
    app = create_app(store, token=token, host=host, port=port, example=example)
    made = make_server(host, port, app.server, threaded=True, fd=listening.detach())
    name = f"[{host}]" if ":" in host else host
    return made, f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(64)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} of {host} is in use by another program, perhaps by this app. Stop "
                "it, or choose another port with --port (0: any free one)."
            ) from error
        raise InvalidValueError(
            f"cannot listen on {host}:{port}: {error.strerror or error}."
        ) from error
    return made
