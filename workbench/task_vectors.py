"""Task vectors: what training added to the weights, how long it is, and at which angle to another.

Ilharco et al., "Editing models with task arithmetic", ICLR 2023, arXiv:2212.04089: τ = θ − θ_0.
Wang et al., "Invariance makes LLM unlearning resilient even to unanticipated downstream
fine-tuning", ICML 2025, arXiv:2506.01339, read the angle between two of them: obtuse where later
training undoes what earlier training did.

All inner products of K checkpoints come from one pass over their files, tensor by tensor, in fp64:
memory is one tensor of each checkpoint, and no model is built.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workbench.errors import InvalidValueError, ModelError
from workbench.model_files import ADAPTER, WEIGHTS, find

BLOCK = re.compile(r"\.(\d+)\.")
HEADS = ("lm_head", "embed_out", "output")
NORMS = ("norm", "ln_f", "ln_final")
LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")
EMBEDDING, FINAL_NORM, HEAD, WHOLE = "embedding", "final norm", "head", "all"


@dataclass(frozen=True)
class Gram:
    """Inner products of task vectors with a common origin, for each part of the model."""

    names: tuple[str, ...]
    parts: Mapping[str, Float[Tensor, "checkpoint checkpoint"]]
    """Part (`embedding`, `block 0`, ..., `final norm`, `head`, `all`) to the Gram matrix, fp64."""
    origin: Mapping[str, float]
    """Part to the norm of the origin's weights there."""
    sizes: Mapping[str, int]
    """Part to its number of parameters."""

    def norm(self, i: int, part: str = WHOLE) -> float:
        """‖τ_i‖ over a part."""
        return math.sqrt(max(float(self.parts[part][i, i]), 0.0))

    def angle(self, i: int, j: int, part: str = WHOLE) -> float | None:
        """Angle between τ_i and τ_j (degrees); None where one of them is zero."""
        lengths = self.norm(i, part) * self.norm(j, part)
        if lengths == 0:
            return None
        if i == j:
            return 0.0
        cosine = float(self.parts[part][i, j]) / lengths
        return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))

    def kept(self, i: int, j: int, part: str = WHOLE) -> float | None:
        """⟨τ_j, τ_i⟩ / ‖τ_i‖²: how much of the change i is still in j (1 all of it, 0 undone)."""
        square = float(self.parts[part][i, i])
        return float(self.parts[part][i, j]) / square if square else None

    def by_chance(self, part: str = WHOLE) -> float:
        """Half-width (degrees) of the 95 % band around 90° of angles of random directions."""
        return math.degrees(1.96 / math.sqrt(self.sizes[part]))


def gram(origin: str, checkpoints: Sequence[str]) -> Gram:
    """The Gram matrix of θ_k − θ_origin.

    Args:
        origin: where the vectors begin; named as in `models.load`.
        checkpoints: where they end; a LoRA adapter counts as its base with the adapter added.

    Raises:
        InvalidValueError: the checkpoints do not have the same weights.
        ModelError: files that cannot be read, an adapter that is not a plain LoRA, or weights that
            are not finite.
        UnknownNameError: no such checkpoint.
    """
    sources = [Weights(name) for name in (origin, *checkpoints)]
    _require_same_shapes(sources)
    k = len(checkpoints)
    parts: dict[str, Tensor] = {}
    origins: dict[str, float] = {}
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        readers = [stack.enter_context(source) for source in sources]
        for name in sources[0].shapes:
            base, *others = (reader.read(name).double().flatten() for reader in readers)
            deltas = torch.stack([other - base for other in others])
            for part in (part_of(name), WHOLE):
                parts[part] = parts.get(part, torch.zeros(k, k, dtype=torch.float64))
                parts[part] += deltas @ deltas.T
                origins[part] = origins.get(part, 0.0) + float(base @ base)
                sizes[part] = sizes.get(part, 0) + base.numel()
    require_finite(origin, origins)
    for i, checkpoint in enumerate(checkpoints):
        require_finite(checkpoint, {part: float(parts[part][i, i]) for part in parts})
    order = sorted(parts, key=place)
    return Gram(
        tuple(checkpoints),
        {part: parts[part] for part in order},
        {part: math.sqrt(origins[part]) for part in order},
        {part: sizes[part] for part in order},
    )


def part_of(name: str) -> str:
    """The part of a model that a weight belongs to, by its name.

    >>> part_of("model.layers.3.mlp.up_proj.weight"), part_of("lm_head.weight")
    ('block 3', 'head')
    """
    if found := BLOCK.search(name):
        return f"block {found[1]}"
    words = name.split(".")
    if any(word in HEADS for word in words):
        return HEAD
    return FINAL_NORM if any(mark in name for mark in NORMS) else EMBEDDING


def place(part: str) -> tuple[int, int]:
    """Sort key of a part: the order of a forward pass, the whole last."""
    order = {EMBEDDING: 0, FINAL_NORM: 2, HEAD: 3, WHOLE: 4}
    return order.get(part, 1), int(part.split()[1]) if part.startswith("block") else 0


def require_finite(owner: str, squares: Mapping[str, float]) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        owner: whose they are, in words.
        squares: part to the squared norm of its weights, or of their change.

    Raises:
        ModelError: the message names the first part whose norm is not finite.
    """
    broken = next((x for x in sorted(squares, key=place) if not math.isfinite(squares[x])), None)
    if broken is not None:
        raise ModelError(
            f"the weights of {owner} are not finite (NaN or infinity) in the part {broken!r}, so "
            "no distance can be measured. Look at how they were trained, or save them anew."
        )


class Weights:
    """The weights of one checkpoint, read from its files one tensor at a time."""

    def __init__(self, name: str):
        self.name, directory = name, find(name)
        self.adapter: dict[str, Any] | None = None
        self._deltas: dict[str, dict[str, str]] = {}
        if (directory / ADAPTER).is_file():
            self.adapter = _plain_lora(directory)
            self._adapter_file = _files(directory)
            for key in self._adapter_file:
                if not (match := LORA.fullmatch(key)):
                    raise ModelError(f"{directory} changes {key!r}, which is no LoRA; merge it.")
                self._deltas.setdefault(match[1] + ".weight", {})[match[2]] = key
            directory = find(str(self.adapter["base_model_name_or_path"]))
        self._files = _files(directory)
        self.shapes = {key: _shape(path, key) for key, path in sorted(self._files.items())}
        absent = [key for key in self._deltas if key not in self.shapes]
        if absent:
            raise ModelError(f"{name} adapts weights that its base lacks: {', '.join(absent[:3])}.")

    def __enter__(self) -> "Weights":
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """One weight, with its adapter added."""
        weight = self._tensor(self._files[name], name)
        if name not in self._deltas or self.adapter is None:
            return weight
        a, b = (
            self._tensor(self._adapter_file[self._deltas[name][x]], self._deltas[name][x]).double()
            for x in ("A", "B")
        )
        rank = self.adapter["r"]
        root = math.sqrt(rank) if self.adapter.get("use_rslora") else rank
        delta = (self.adapter["lora_alpha"] / root) * (b @ a)
        return weight.double() + (delta.T if self.adapter.get("fan_in_fan_out") else delta)

    def _tensor(self, path: Path, name: str) -> Tensor:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, "pt"))
        return self._open[path].get_tensor(name)


def _plain_lora(directory: Path) -> dict[str, Any]:
    config = json.loads((directory / ADAPTER).read_text())
    odd = [key for key in ("rank_pattern", "alpha_pattern", "use_dora") if config.get(key)]
    if config.get("peft_type") != "LORA" or odd:
        raise ModelError(
            f"{directory} is not a plain LoRA adapter ({config.get('peft_type')}"
            f"{', ' + ', '.join(odd) if odd else ''}); merge it into its base and save that."
        )
    return config


def _files(directory: Path) -> dict[str, Path]:
    """Weight to the file that holds it."""
    found: dict[str, Path] = {}
    for path in sorted(directory.glob(WEIGHTS)):
        try:
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from error
    if not found:
        raise ModelError(f"{directory} has no weights ({WEIGHTS}).")
    return found


def _shape(path: Path, name: str) -> tuple[int, ...]:
    with safe_open(path, "pt") as file:
        return tuple(file.get_slice(name).get_shape())


def _require_same_shapes(sources: Sequence[Weights]) -> None:
    first = sources[0]
    for other in sources[1:]:
        keys = first.shapes.keys() | other.shapes.keys()
        differ = sorted(key for key in keys if first.shapes.get(key) != other.shapes.get(key))
        if differ:
            shown = "; ".join(
                f"{key}: {first.shapes.get(key, 'absent')} and {other.shapes.get(key, 'absent')}"
                for key in differ[:3]
            )
            raise InvalidValueError(
                f"{first.name} and {other.name} do not have the same weights ({len(differ)} "
                f"differ: {shown}), so there is no difference between them. Give checkpoints of "
                "one architecture and size."
            )
