"""Probes, by name: functions from checkpoints and text to rows. To add one: its file, its line."""

from collections.abc import Callable

from workbench.probes._base import At
from workbench.probes.embedding_drift import embedding_drift
from workbench.probes.token_kl import token_kl
from workbench.rows import EmbeddingDrift, Row, TokenKL

PROBES: dict[str, Callable[..., list]] = {
    "embedding-drift": embedding_drift,
    "token-kl": token_kl,
}
WRITES: dict[str, type[Row]] = {
    "embedding-drift": EmbeddingDrift,
    "token-kl": TokenKL,
}
"""The kind of row each probe writes."""

__all__ = ["PROBES", "WRITES", "At", "embedding_drift", "token_kl"]
