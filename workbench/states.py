"""Hidden states of some examples, of a live model or from a recording: what analyses compare.

Two checkpoints need not be in memory together: states are read from one, kept on the CPU in fp32,
and compared with those of the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.activations import HookedLM, evaluating
from workbench.data import Batch
from workbench.errors import InvalidValueError, ModelError, RecordingError
from workbench.positions import Positions, kept, kept_positions, mean_kept
from workbench.recordings import Recording

MICRO_BATCH = 32
"""Examples that go through the model at a time."""


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states at one site of every layer: the kept tokens, example after example."""

    site: str
    """Short name, e.g. `resid_post`."""
    positions: Positions
    examples: tuple[str, ...]
    lengths: tuple[int, ...]
    """How many tokens of each example were kept."""
    layers: tuple[str, ...]
    """Canonical site names, from the lowest layer up."""
    values: Float[Tensor, "layer row d_model"]

    def by_example(self) -> tuple[Float[Tensor, "layer tokens d_model"], ...]:
        """The states of each example, in the order of `examples`."""
        return self.values.split(list(self.lengths), dim=1)

    def means(self) -> Float[Tensor, "layer example d_model"]:
        """The mean over each example's kept tokens."""
        return torch.stack([x.mean(1) for x in self.by_example()], dim=1)

    def require_like(self, other: "States") -> None:
        """Check that two sets of states are of the same tokens at the same places.

        Raises:
            InvalidValueError: a model of another size, another site, other positions, layers,
                examples or lengths.
        """
        require_same_size(self.values, other.values)
        for what in ("site", "positions", "layers", "examples", "lengths"):
            one, two = getattr(self, what), getattr(other, what)
            if one != two:
                raise InvalidValueError(
                    f"these states differ in their {what} ({one!s:.80} against {two!s:.80}); only "
                    "states of the same tokens, read at the same place, can be compared."
                )


def read_states(
    model: nn.Module, batch: Batch, site: str = "resid_post", positions: Positions = "last_prompt"
) -> States:
    """Read one site of every layer. The model's mode and random numbers are left as they were.

    Raises:
        SiteError: the model has no such site.
        InvalidValueError: an example has no such token, or is longer than the model's context.
        ModelError: states that are not finite.
    """
    (read,) = read_sites(model, batch, (site,), positions).values()
    return read


@torch.no_grad()
def read_sites(
    model: nn.Module,
    batch: Batch,
    sites: tuple[str, ...],
    positions: Positions = "last_prompt",
) -> dict[str, States]:
    """As `read_states`, for several sites in one pass; short site name to states."""
    lm = HookedLM(model, check=False)
    require_room(lm, batch)
    keep = kept_positions(batch, positions)
    pick = mean_kept if positions == "mean_response" else kept
    parts: dict[str, list[Tensor]] = {}
    with evaluating(lm.model):
        for rows in torch.arange(len(batch)).split(MICRO_BATCH):
            part = batch.rows(rows.tolist())
            mask = kept_positions(part, positions).to(lm.parts.device)
            with lm.record(
                *sites,
                select=lambda x, name, mask=mask: pick(x, mask.to(x.device)),  # type: ignore[misc]
                to=torch.float32,
            ) as acts:
                lm.stream(part)
            for name, x in acts.items():
                parts.setdefault(name, []).append(x.cpu())
    lengths = [1] * len(batch) if positions == "mean_response" else keep.sum(1).tolist()
    found = {}
    for site in sites:
        layers = lm.resolve(site)
        values = torch.stack([torch.cat(parts[name]) for name in layers])
        found[site] = States(site, positions, batch.examples, tuple(lengths), layers, values)
        require_finite(found[site])
    return found


def recorded_states(recording: Recording, step: int, site: str = "resid_post") -> States:
    """States of one recorded step: what `read_states` gave then, as exact as they were stored.

    Raises:
        RecordingError: no such step or site.
        ModelError: states that are not finite.
    """
    layers = tuple(
        name for name in recording.sites if name == site or name.endswith(f".hook_{site}")
    )
    if not layers:
        raise RecordingError(
            f"{recording.path} holds no site {site!r}; it has {', '.join(recording.sites)}."
        )
    lengths = recording.lengths(step)
    read = torch.from_numpy(np.stack([recording.read(name, step=step) for name in layers]))
    found = States(
        site,
        recording.manifest.positions,
        tuple(lengths),
        tuple(lengths.values()),
        layers,
        read,
    )
    require_finite(found)
    return found


def chosen(states: States, examples: tuple[str, ...]) -> States:
    """The states of some examples, in the order asked for.

    Raises:
        InvalidValueError: an example that is not among them.
    """
    by_name = dict(zip(states.examples, states.by_example(), strict=True))
    absent = [name for name in examples if name not in by_name]
    if absent:
        raise InvalidValueError(f"there are no states of {', '.join(absent)}.")
    parts = [by_name[name] for name in examples]
    lengths = tuple(part.shape[1] for part in parts)
    values = torch.cat(parts, dim=1)
    return States(states.site, states.positions, examples, lengths, states.layers, values)


def require_finite(states: States) -> None:
    """Refuse NaN and infinity, which every comparison would pass on.

    Raises:
        ModelError: there are some; the message names the layers.
    """
    bad = [
        name
        for name, x in zip(states.layers, states.values, strict=True)
        if not torch.isfinite(x).all()
    ]
    if bad:
        raise ModelError(
            f"hidden states are not finite at {', '.join(bad[:4])}"
            f"{', ...' if len(bad) > 4 else ''}. The weights hold NaN or infinity, or the model "
            "overflows in its dtype: load it anew, or in fp32."
        )


def require_same_size(
    now: Float[Tensor, "layer _ d_model"], then: Float[Tensor, "layer_then _ d_then"]
) -> None:
    """Refuse to compare states of models of different depth or width.

    Raises:
        InvalidValueError: such states; the message says which model has what.
    """
    sizes = [(len(x), x.shape[-1]) for x in (now, then)]
    if sizes[0] != sizes[1]:
        told = [f"{layers} layers of width {width}" for layers, width in sizes]
        raise InvalidValueError(
            f"the checkpoint has states at {told[0]}, the reference at {told[1]}: they cannot be "
            "compared number by number. Give a reference of the same architecture. What models of "
            "different sizes say can be compared where they share a tokenizer: vocabulary, "
            "residual-knowledge."
        )


def require_room(lm: HookedLM, batch: Batch) -> None:
    """Refuse examples that are longer than what the model can read.

    Raises:
        InvalidValueError: such an example.
    """
    room = getattr(lm.parts.base.config.get_text_config(), "max_position_embeddings", None)
    lengths = dict(zip(batch.examples, batch.attention_mask.sum(1).tolist(), strict=True))
    long = {name: n for name, n in lengths.items() if room is not None and n > room}
    if long:
        name, n = next(iter(long.items()))
        raise InvalidValueError(
            f"{len(long)} of {len(batch)} examples do not fit in the model's context of {room} "
            f"tokens; {name!r} has {n} with its response. Shorten responses (max_length) or leave "
            "these examples out."
        )


StatesOf = Mapping[tuple[str, str], States]
"""(Group of text, short site name) to the states read there."""
