"""How far a picture of points can be believed: what it keeps of the space that it is made from.

Venna & Kaski, "Neighborhood preservation in nonlinear projection methods: an experimental study",
ICANN 2001, doi:10.1007/3-540-44668-0_68: trustworthiness falls with every neighbour in the picture
that is none in the space, by how far off it is there.
"""

import numpy as np
from jaxtyping import Float

SAMPLE = 2_000
"""Both measures compare all pairs, so of more points than this a random sample is judged."""


def judged(points: int, seed: int = 0) -> np.ndarray:
    """Which points are judged: all, or a sample drawn with this seed, in order."""
    if points <= SAMPLE:
        return np.arange(points)
    return np.sort(np.random.default_rng(seed).choice(points, SAMPLE, replace=False))


def neighbours(points: int) -> int:
    """How many neighbours are looked at: 10, or as many as trustworthiness is defined for."""
    return min(10, max(1, (points - 1) // 2))


def quality(
    states: Float[np.ndarray, "point d_model"], places: Float[np.ndarray, "point 2"], seed: int = 0
) -> dict[str, float]:
    """Trustworthiness in [0, 1], and the share of each point's neighbours that are kept.

    `knn_kept` is |N_k(states) ∩ N_k(places)| / k, a mean over points; by chance it is
    k / (points − 1). k is `neighbours(points)`; Euclidean distances on both sides. Of fewer than
    three points nothing can be said, so nothing is.
    """
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    at = judged(len(states), seed)
    states, places, k = states[at], places[at], neighbours(len(at))
    if len(at) < 3:
        return {}
    found = [NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[1] for x in (states, places)]
    kept = [len(set(a) & set(b)) for a, b in zip(*found, strict=True)]
    return {
        "trustworthiness": float(np.clip(trustworthiness(states, places, n_neighbors=k), 0, 1)),
        "knn_kept": float(np.mean(kept) / k),
    }


def arrows(
    moved: Float[np.ndarray, "point d_model"], drawn: Float[np.ndarray, "point 2"]
) -> dict[str, float]:
    """What arrows stand for: how far points moved in the space, and whether lengths tell it.

    `drift` is the mean of ‖Δ‖ over points, in the units of the states; `arrow_rank` Spearman's rank
    correlation over points between ‖Δ‖ and the arrow's length, left out where either is constant.
    """
    from scipy.stats import spearmanr

    space, picture = (np.linalg.norm(x, axis=1) for x in (moved, drawn))
    found = {"drift": float(space.mean())}
    if len(space) > 2 and np.ptp(space) > 0 and np.ptp(picture) > 0:
        found["arrow_rank"] = float(spearmanr(space, picture).statistic)
    return found
