"""Drift map: prompts move, checkpoint by checkpoint, in one map of the reference's hidden states.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109, show drift as distances; other papers as t-SNE
pictures fitted anew for each checkpoint, which cannot be compared. Here the map is fitted once on
the reference's harmful and benign states, frozen, and later checkpoints are placed into it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from workbench.drift_map import DriftMap, Method
from workbench.errors import InvalidValueError
from workbench.map_quality import arrows, judged, quality
from workbench.panel import Panel
from workbench.probes._base import At, StateProbe
from workbench.rows import DriftMapPoint, MapQuality, Row
from workbench.states import States, StatesOf, read_sites


@dataclass(frozen=True, kw_only=True)
class DriftMapProbe(StateProbe):
    """Where each prompt lies in a frozen map of the reference's states, and the map's quality.

    A picture is no evidence alone, so each checkpoint's comes with its trustworthiness, the share
    of nearest neighbours kept, and the drift in the full space.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (DriftMapPoint, MapQuality)

    layer: int = -1
    """Block whose states are mapped, counted from 0; negative from the last, which is −1."""
    method: Method = "tsne"
    """`tsne` keeps neighbours together; `pca` is linear, so that distances mean something."""
    perplexity: float | None = None
    """Of t-SNE; none for 30, or a third of the other points where that is less."""
    seed: int = 0
    """Of the map. The same seed gives the same map."""

    def fit(self, then: StatesOf) -> Callable[[StatesOf, At], list[Row]]:
        """Fit one map a site on these states, all groups together."""
        maps = {site: self._map(then, site) for site in self.sites}

        def compare(now: StatesOf, at: At) -> list[Row]:
            return [row for site, each in maps.items() for row in each.rows(now, at)]

        return compare

    def _read(self, model: nn.Module, panel: Panel) -> StatesOf:
        """Each prompt by itself, without padding: t-SNE makes much of how a last bit is rounded."""
        found: dict[tuple[str, str], States] = {}
        for group in self.groups(panel):
            batch = panel.batch(group)
            each = [
                read_sites(model, batch.rows([i]), self.sites, self.positions)
                for i in range(len(batch))
            ]
            found |= {(group, site): _joined([one[site] for one in each]) for site in self.sites}
        return found

    def _map(self, then: StatesOf, site: str) -> "_Fitted":
        groups = tuple(group for group, of in then if of == site)
        parts = [_at_layer(then[group, site], self.layer) for group in groups]
        states = np.concatenate(parts)
        made = DriftMap.fit(states, self.method, self.perplexity, self.seed)
        return _Fitted(self, site, groups, then, states, made, made.transform(states))


@dataclass(frozen=True)
class _Fitted:
    """The map of one site, with the states it was fitted on and where they are placed."""

    probe: DriftMapProbe
    site: str
    groups: tuple[str, ...]
    then: StatesOf
    states: np.ndarray
    made: DriftMap
    placed: np.ndarray

    def rows(self, now: StatesOf, at: At) -> list[Row]:
        """A point for each example, and what can be said of them together."""
        for group in self.groups:
            now[group, self.site].require_like(self.then[group, self.site])
        parts = [_at_layer(now[group, self.site], self.probe.layer) for group in self.groups]
        states = np.concatenate(parts)
        places = self.made.transform(states)
        names = [(g, example) for g in self.groups for example in now[g, self.site].examples]
        where = self._where(at, len(now[self.groups[0], self.site].layers))
        points: list[Row] = [
            DriftMapPoint(
                **where, example=example, group=group,  # type: ignore[arg-type]
                x=float(x), y=float(y), x_then=float(x_then), y_then=float(y_then),
            )
            for (group, example), (x, y), (x_then, y_then)
            in zip(names, places, self.placed, strict=True)
        ]  # fmt: skip
        return points + [
            MapQuality(**where, measure=measure, value=value, n=n)  # type: ignore[arg-type]
            for measure, (value, n) in self._quality(states, places).items()
        ]

    def _where(self, at: At, layers: int) -> dict[str, object]:
        return {
            "stage": at.stage, "step": at.step, "reference": at.reference, "site": self.site,
            "layer": self.probe.layer % layers, "positions": self.probe.positions,
            "method": self.probe.method,
        }  # fmt: skip

    def _quality(self, states: np.ndarray, places: np.ndarray) -> dict[str, tuple[float, int]]:
        seen, every = len(judged(len(states))), len(states)
        moved = arrows(states - self.states, places - self.placed)
        size = float(np.linalg.norm(self.states, axis=1).mean())
        return {
            **{name: (value, seen) for name, value in quality(states, places).items()},
            **{name: (value, every) for name, value in moved.items()},
            "relative_drift": (moved["drift"] / max(size, np.finfo(float).tiny), every),
            "perplexity": (self.made.perplexity, every),
        }


def _joined(parts: list[States]) -> States:
    """States of several examples, each read by itself."""
    return replace(
        parts[0],
        examples=tuple(name for part in parts for name in part.examples),
        lengths=tuple(length for part in parts for length in part.lengths),
        values=torch.cat([part.values for part in parts], dim=1),
    )


def _at_layer(states: States, layer: int) -> np.ndarray:
    """The mean over each example's tokens, at one layer."""
    layers = len(states.layers)
    if not -layers <= layer < layers:
        raise InvalidValueError(
            f"there is no layer {layer}: {states.site} was read at {layers} layers, 0 to "
            f"{layers - 1} (or −{layers} to −1, from the last)."
        )
    return states.means()[layer].double().numpy()
