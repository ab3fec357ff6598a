"""Two gloo processes on this machine, for what must hold when a model is shared between them."""

import socket

import torch


def spawned(worker, folder):
    """Run `worker(rank, port, folder)` in both; the folder, with whatever they left there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    return folder
