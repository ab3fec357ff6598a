"""Rows from a GPU to the host while the GPU goes on computing.

Each row block is copied into pinned memory on a stream of its own, which begins when the rows are
there. The stream that computes never waits, and the host waits once, at the end.
"""

import torch
from torch import Tensor


class HostCopies:
    """Copies on their way to the host, by name."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._copies: dict[str, Tensor] = {}

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Begin to copy rows that nobody will write to; returns an empty tensor in their place."""
        if rows.device.type != "cuda":  # a part of the model that is kept on the host
            self._copies[name] = rows
            return rows.new_empty(0)
        if rows.device not in self._streams:
            self._streams[rows.device] = torch.cuda.Stream(rows.device)
        stream = self._streams[rows.device]
        stream.wait_stream(torch.cuda.current_stream(rows.device))  # the rows must be there
        copy = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            copy.copy_(rows, non_blocking=True)
        rows.record_stream(stream)  # their memory is not given to others before they are copied
        self._copies[name] = copy
        return rows.new_empty(0)

    def wait(self) -> dict[str, Tensor]:
        """All copies, once the host has them."""
        for device, stream in self._streams.items():
            copied = torch.cuda.Event()
            with torch.cuda.device(device):
                copied.record(stream)
            copied.synchronize()
        return dict(self._copies)
