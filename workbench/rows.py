"""Every kind of row a measurement writes: the contract between measuring and showing.

One frozen dataclass a kind. A run folder holds one parquet table a kind, named `<kind>.parquet`;
the store adds the column `run` when it reads several. Scalars are long rows (one value a row);
a quantity over tokens or layers is one row per (checkpoint, example, measure) whose `values`
column is a float32 list over the axis that the class names in `axis`.

Units: `share` is a fraction in [0, 1]; entropies and divergences are in nats; `steps` are
optimiser steps; times are seconds; FLOPs follow the 6·N·tokens convention for a full step.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_origin

Stage = Literal["defence", "attack"]
Group = Literal["hazard", "benign"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all rows share: a kind (the table's name) and the version of its columns."""

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Metric(Row):
    """One number about one checkpoint: a point of a curve f(θ_t) or g(θ_t)."""

    kind: ClassVar[str] = "metrics"

    stage: Stage
    step: int
    """Optimiser steps taken when the checkpoint was measured (steps)."""
    split: str
    """Which of the four splits the prompts come from: defend, attack, val, test."""
    domain: str
    """Part of the world the prompts come from, e.g. `defended` or `unseen`."""
    name: str
    """What was measured: harmfulness, refused, complied, right, broken, capability, ..."""
    value: float
    unit: str = "share"
    n: int
    """How many prompts stand behind the value."""


@dataclass(frozen=True, kw_only=True)
class Cost(Row):
    """What the attacker or defender had spent when a checkpoint was measured (cumulative)."""

    kind: ClassVar[str] = "costs"

    stage: Stage
    step: int
    samples: int
    """Training examples seen, with repetition."""
    tokens: int
    """Non-padding tokens trained on."""
    flops: float
    """6·N·tokens for full training; 4·N·tokens + 2·N_adapter·tokens for LoRA (N parameters)."""
    seconds: float
    """Wall time spent training, measuring excluded."""


@dataclass(frozen=True, kw_only=True)
class Loss(Row):
    """One term of the training objective at one optimiser step."""

    kind: ClassVar[str] = "losses"

    stage: Stage
    step: int
    term: str
    value: float
    lr: float
    grad_norm: float
    """Global gradient norm before clipping."""


@dataclass(frozen=True, kw_only=True)
class TokenKL(Row):
    """KL divergence between two checkpoints at each response position of one example (nats)."""

    kind: ClassVar[str] = "token_kl"
    axis: ClassVar[str] = "response_position"

    stage: Stage
    step: int
    reference: str
    """The checkpoint q in KL(p ‖ q); p is the checkpoint measured."""
    example: str
    group: Group
    measure: Literal["forward_kl", "reverse_kl"]
    values: list[float]
    """Position 0 is the first response token, predicted from the last prompt token."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingDrift(Row):
    """How far one example's hidden states moved from the reference checkpoint, by layer."""

    kind: ClassVar[str] = "embedding_drift"
    axis: ClassVar[str] = "layer"

    stage: Stage
    step: int
    reference: str
    example: str
    group: Group
    site: str
    """Short site name, e.g. `attn_module_out` (the paper's) or `resid_post`."""
    positions: str
    """Which tokens were averaged: `all`, `prompt`, `response` or `last_prompt`."""
    measure: Literal["l2", "relative_l2", "cosine_distance"]
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class Prefill(Row):
    """Whether one example's answer succeeds when the first k tokens of it are given."""

    kind: ClassVar[str] = "prefill"
    axis: ClassVar[str] = "prefilled_tokens"

    stage: Stage
    step: int
    split: str
    domain: str
    example: str
    group: Group
    values: list[float]
    """1 or 0 for k = 0, 1, ..., as far as the answer reaches."""


@dataclass(frozen=True, kw_only=True)
class Prompt(Row):
    """A prompt the run was measured on. Text lives here and in generations, nowhere else."""

    kind: ClassVar[str] = "prompts"

    example: str
    question: Literal["hazard", "benign", "skill", "judgement"]
    split: str
    domain: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Generation(Row):
    """What a checkpoint answered, and the verdict on it."""

    kind: ClassVar[str] = "generations"

    stage: Stage
    step: int
    example: str
    decoding: str
    """How it was decoded, e.g. `greedy` or `temperature=1`, plus the prefill if any."""
    text: str
    refused: bool
    complied: bool
    right: float
    """Share of the secret that is right."""
    evaded: bool
    broken: bool
    success: bool


@dataclass(frozen=True, kw_only=True)
class Token(Row):
    """The tokens of one example under one tokenizer and chat template."""

    kind: ClassVar[str] = "tokens"

    tokenizer: str
    """Hash of tokenizer and template."""
    example: str
    position: int
    token: int
    piece: str
    role: Literal["prompt", "response"]


KINDS: dict[str, type[Row]] = {
    row.kind: row
    for row in (Metric, Cost, Loss, TokenKL, EmbeddingDrift, Prefill, Prompt, Generation, Token)
}


def columns(row: type[Row]) -> dict[str, object]:
    """The columns of a kind of row, name to type."""
    return {f.name: f.type for f in fields(row)}


def is_list(annotation: object) -> bool:
    """Whether a column holds a list over the row's axis."""
    return get_origin(annotation) is list
