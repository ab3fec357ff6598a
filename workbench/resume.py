"""What training needs to go on after a kill: weights, optimiser, randomness, history. No pickle.

A checkpoint is a folder, replaced in one rename: `state.safetensors` (trainable parameters,
optimiser moments, random states) and `state.json` (fingerprint, history, the method's memory).
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.errors import RunError


class Randomness:
    """One run's random state: the method's generator, and torch's own (dropout) while active."""

    def __init__(self, seed: int, device: torch.device):
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(self._cuda()):
            torch.manual_seed(seed)
            self._global = self._read()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Swap this run's state in for torch's global one, and back again."""
        with torch.random.fork_rng(self._cuda()):
            self._write(self._global)
            try:
                yield
            finally:
                self._global = self._read()

    def state(self) -> dict[str, Tensor]:
        """Everything, as byte tensors."""
        return {"method": self.generator.get_state(), **self._global}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state that `state` returned."""
        self.generator.set_state(state["method"])
        self._global = {k: v for k, v in state.items() if k != "method"}

    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _write(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often training saves itself. `fingerprint` names the run it belongs to."""

    directory: Path
    fingerprint: str
    every: int = 100
    """Optimiser steps between saves."""

    def due(self, step: int, steps: int) -> bool:
        """Whether to save after this step; the end of training is always saved."""
        return step % self.every == 0 or step == steps

    def write(
        self,
        parameters: Sequence[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        randomness: Randomness,
        history: Sequence[Any],
        memory: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Save; a kill at any moment leaves the previous checkpoint or the new one."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(parameters)}
        plain: dict[str, dict[str, float]] = {}
        for index, slots in optimiser.state_dict()["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{index}.{name}"] = value
                else:
                    plain.setdefault(str(index), {})[name] = value
        tensors |= {f"random.{k}": v for k, v in randomness.state().items()}
        fresh = self.directory.with_name(self.directory.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, fresh / "state.safetensors")
        state = {
            "fingerprint": self.fingerprint,
            "optimiser": plain,
            "history": [asdict(x) for x in history],
            "memory": dict(memory or {}),
        }
        (fresh / "state.json").write_text(json.dumps(state))
        for name in ("state.safetensors", "state.json"):
            with (fresh / name).open("rb") as f:
                os.fsync(f.fileno())
        shutil.rmtree(self.directory, ignore_errors=True)
        fresh.rename(self.directory)

    def restore(
        self,
        parameters: Sequence[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        randomness: Randomness,
        memory: dict[str, list[float]] | None = None,
    ) -> list[dict]:
        """Load what was saved, in place; returns the history, empty if nothing was saved.

        Raises:
            RunError: the checkpoint is another run's, or does not fit the parameters.
        """
        where = self._newest()
        if where is None:
            return []
        state = json.loads((where / "state.json").read_text())
        if state["fingerprint"] != self.fingerprint:
            raise RunError(
                f"the checkpoint in {self.directory} belongs to another run (other settings, data "
                "or code). Delete it, or train into another folder."
            )
        tensors = load_file(where / "state.safetensors")
        shapes = [tuple(tensors[f"parameter.{i}"].shape) for i in range(len(parameters))]
        if shapes != [tuple(p.shape) for p in parameters]:
            raise RunError(f"the checkpoint in {self.directory} does not fit this model.")
        with torch.no_grad():
            for i, p in enumerate(parameters):
                p.copy_(tensors[f"parameter.{i}"])
        _load_optimiser(optimiser, tensors, state["optimiser"])
        prefix = "random."
        randomness.load(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        if memory is not None:
            memory |= state["memory"]
        return state["history"]

    def _newest(self) -> Path | None:
        """The saved folder; between the two renames of a save only the new one is there."""
        fresh = self.directory.with_name(self.directory.name + ".new")
        if (self.directory / "state.json").is_file():
            return self.directory
        if _whole(fresh):
            return fresh
        return None


def _whole(folder: Path) -> bool:
    try:
        json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return False
    return (folder / "state.safetensors").is_file()


def _load_optimiser(
    optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict
) -> None:
    slots: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in plain.items()}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(
        {"state": slots, "param_groups": optimiser.state_dict()["param_groups"]}
    )
