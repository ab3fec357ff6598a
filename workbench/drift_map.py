"""A frozen map of hidden states: fitted once on a reference, every checkpoint moves in it.

Poličar, Stražar & Zupan, "openTSNE: a modular Python library for t-SNE dimensionality reduction and
embedding", Journal of Statistical Software 109(3), 2024, doi:10.18637/jss.v109.i03: new points are
placed into a finished t-SNE, each by itself, and nothing that is there moves. Maps that are fitted
anew for every checkpoint cannot be compared: t-SNE is free to turn, mirror and rearrange them.

Kobak & Berens, "The art of using t-SNE for single-cell transcriptomics", Nature Communications
10:5416, 2019: PCA to 50 first, PCA initialisation, learning rate that grows with the points.

openTSNE and scikit-learn take seconds to import, so they wait until a map is made.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from workbench.errors import InvalidValueError

if TYPE_CHECKING:
    from openTSNE import TSNE
    from sklearn.decomposition import PCA

Method = Literal["tsne", "pca"]
States = Float[np.ndarray, "point d_model"]
Places = Float[np.ndarray, "point 2"]

COMPONENTS = 50
"""Principal components that t-SNE is given, at most."""
PERPLEXITY = 30.0
"""Of t-SNE where there are points enough."""
MANY = 10_000
"""Above so many points repulsion is interpolated (FIt-SNE) rather than summed (Barnes-Hut)."""
NEIGHBOURS = 5
"""Of t-SNE's new points: perplexity among the points of the frozen map."""


@dataclass(frozen=True, eq=False)
class DriftMap:
    """A map that no longer changes. Made by `fit`."""

    method: Method
    perplexity: float
    """What t-SNE used; 0 for PCA."""
    places: Places
    """Where the points it was fitted on lie."""
    _pca: "PCA"
    _embedding: Any = None

    @classmethod
    def fit(
        cls,
        states: States,
        method: Method = "tsne",
        perplexity: float | None = None,
        seed: int = 0,
    ) -> "DriftMap":
        """Fit a map. The same states and seed give the same map.

        Args:
            states: one row a point, in fp32 or wider.
            method: `tsne` keeps neighbours together, `pca` is the linear projection with the most
                variance: exact, and at once.
            perplexity: how many neighbours of a point count, for t-SNE; None for 30, or a third of
                the other points where that is less.
            seed: of the approximate neighbour search, which large maps use.

        Raises:
            InvalidValueError: NaN, all points the same, or fewer points than the perplexity allows.
        """
        states = _checked(states)
        if len(states) < 2 or not np.ptp(states, axis=0).any():
            raise InvalidValueError(
                f"a map needs states that differ; there {_are(len(states))}, all of them the same. "
                "Look at another layer or other positions, or give more prompts."
            )
        if method == "pca":
            pca = principal(states, 2)
            return cls(method, 0.0, _two(pca.transform(states)), pca)
        chosen = usable_perplexity(len(states), perplexity)
        pca = principal(states, COMPONENTS)
        embedding = tsne(len(states), chosen, seed).fit(pca.transform(states))
        # `transform` would move the whole map to this centre when first called
        embedding -= (embedding.max(0) + embedding.min(0)) / 2
        return cls(method, chosen, np.array(embedding), pca, embedding)

    def transform(self, states: States) -> Places:
        """Where points lie in the map. Each is placed by itself; the map stays as it is.

        With t-SNE a point of the fit lands near its place, not on it.

        Raises:
            InvalidValueError: NaN, or states of another width.
        """
        states = _checked(states)
        if states.shape[1] != self._pca.n_features_in_:
            raise InvalidValueError(
                f"this map is of states with {self._pca.n_features_in_} dimensions, not "
                f"{states.shape[1]}."
            )
        flat = self._pca.transform(states)
        if self._embedding is None:
            return _two(flat)
        most = min(float(NEIGHBOURS), (len(self.places) - 1) / 3)
        return np.array(self._embedding.transform(flat, perplexity=most))


def usable_perplexity(points: int, asked: float | None = None) -> float:
    """The perplexity for so many points: as asked for, or 30 where that is possible.

    A perplexity u looks at 3u neighbours, and a point has no more than all the others.

    Raises:
        InvalidValueError: more than a third of the other points, or less than 1.
    """
    largest = (points - 1) / 3
    if asked is None and largest >= 1:
        return min(PERPLEXITY, largest)
    if largest < 1 or asked is None:
        raise InvalidValueError(
            f"t-SNE needs at least 4 points and there {_are(points)}. Give more prompts, or "
            "method='pca', which takes any number."
        )
    if not 1 <= asked <= largest:
        raise InvalidValueError(
            f"perplexity {asked:g} does not go with {points} points: t-SNE looks at 3 × perplexity "
            f"neighbours of each, so it may be 1 to {largest:.4g}. Give that or less, more "
            "prompts, or method='pca', which has no perplexity."
        )
    return asked


def tsne(points: int, perplexity: float, seed: int) -> "TSNE":
    """The optimiser with the settings of the map: exaggeration 12 for 250 steps, then 500."""
    from openTSNE import TSNE

    return TSNE(
        perplexity=perplexity,
        early_exaggeration=12,
        early_exaggeration_iter=250,
        n_iter=500,
        learning_rate="auto",
        initialization="pca",
        negative_gradient_method="fft" if points > MANY else "bh",
        n_jobs=1,
        random_state=seed,
    )


def principal(states: States, components: int) -> "PCA":
    """Exact PCA with as many components as there can be."""
    from sklearn.decomposition import PCA

    solver = "covariance_eigh" if len(states) >= states.shape[1] else "full"
    return PCA(min(components, *states.shape), svd_solver=solver).fit(states)


def _two(places: Float[np.ndarray, "point found"]) -> Places:
    """Two columns, also where the states have one dimension."""
    return np.pad(places[:, :2], ((0, 0), (0, max(0, 2 - places.shape[1]))))


def _checked(states: States) -> States:
    """In fp64, finite."""
    states = np.asarray(states, dtype=np.float64)
    if not np.isfinite(states).all():
        raise InvalidValueError(
            "some states are NaN or infinite, and have no place in a map. The weights may hold "
            "NaN, or the model overflows in its dtype."
        )
    return states


def _are(points: int) -> str:
    return "is 1" if points == 1 else f"are {points}"
