"""`python -m app [STORE]`: look at a store in the browser of this machine."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

EXAMPLE = Path(__file__).parent / "example_store"
PORT = 8050


@dataclass(frozen=True)
class Arguments:
    """Look at a store of runs in a browser. Nothing is measured or changed."""

    store: tyro.conf.Positional[Path | None] = None
    """Folder of run folders; without it, the shipped example."""
    port: int = PORT
    """Port to listen on; 0 for any free one."""
    host: str = "127.0.0.1"
    """Address to listen on. From another machine use ssh -L instead."""
    no_token: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let in every program of this machine, other users' too."""


def serve(arguments: Arguments) -> int:
    """Serve until Ctrl-C; return the exit code."""
    from app.serving import server
    from workbench.errors import WorkbenchError

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    store = EXAMPLE if arguments.store is None else arguments.store
    try:
        made, address = server(
            store, host=arguments.host, port=arguments.port, with_token=not arguments.no_token,
            example=arguments.store is None,
        )  # fmt: skip
    except WorkbenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    what = "the shipped example" if arguments.store is None else str(store)
    sys.stdout.write(f"Showing {what} at\n\n    {address}\n\nCtrl-C stops it.\n")
    sys.stdout.flush()
    try:
        made.serve_forever()
    except KeyboardInterrupt:
        sys.stdout.write("Stopped.\n")
    finally:
        made.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(serve(tyro.cli(Arguments, prog="python -m app")))
