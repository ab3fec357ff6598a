"""How alike two sets of states of the same tokens are, whatever turned the one into the other.

Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML
2019, arXiv:1905.00414 (linear CKA); Schönemann, "A generalized solution of the orthogonal
Procrustes problem", Psychometrika 31, 1966. Everything is computed in fp64, all layers at once.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Sets = Float[Tensor, "*layer row d_model"]
Products = tuple[Float[Tensor, "*layer"], Float[Tensor, "*layer"], Float[Tensor, "*layer"]]


def linear_cka(now: Sets, then: Sets) -> Float[Tensor, "*layer"]:
    """‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred states; in [0, 1], 1 for the same up to turning.

    Turning, mirroring, shifting and scaling all of a set leave it as it is. With fewer tokens than
    dimensions it is high for unrelated sets, too. 0 where all states of a set are the same.
    """
    x, y = centred(now), centred(then)
    form = feature_form if x.shape[-1] < x.shape[-2] else gram_form
    shared, own_x, own_y = form(x, y)
    return _ratio(shared, own_x * own_y)


def feature_form(x: Sets, y: Sets) -> Products:
    """‖XᵀY‖²_F, ‖XᵀX‖_F and ‖YᵀY‖_F by d × d products: the cheaper way for d < n."""
    shared, own_x, own_y = (_norm(a.mT @ b) for a, b in ((x, y), (x, x), (y, y)))
    return shared.square(), own_x, own_y


def gram_form(x: Sets, y: Sets) -> Products:
    """The same three by n × n products: ⟨XXᵀ, YYᵀ⟩, ‖XXᵀ‖_F and ‖YYᵀ‖_F."""
    of_x, of_y = x @ x.mT, y @ y.mT
    return (of_x * of_y).sum((-2, -1)), _norm(of_x), _norm(of_y)


def procrustes_residual(now: Sets, then: Sets) -> Float[Tensor, "*layer"]:
    """Share of the spread that no shift, turn, mirroring and scale of the other set explains.

    min ‖Y − c X Q‖²_F / ‖Y‖²_F over orthogonal Q and scales c, of centred states, which is
    1 − ‖XᵀY‖²_* / (‖X‖²_F ‖Y‖²_F) and the same either way round; in [0, 1], 0 for the same up to
    turning and scale. 1 where all states of one set are the same.
    """
    x, y = centred(now), centred(then)
    size = _norm(x).square() * _norm(y).square()
    if x.shape[-1] > x.shape[-2]:  # with Xᵀ = Q R, XᵀY has the singular values of R_x R_yᵀ
        x, y = (torch.linalg.qr(z.mT, mode="r").R.mT for z in (x, y))
    explained = torch.linalg.svdvals(x.mT @ y).sum(-1)
    return 1 - _ratio(explained.square(), size)


def centred(states: Sets) -> Sets:
    """In fp64, each layer's mean over tokens taken away."""
    states = states.double()
    return states - states.mean(-2, keepdim=True)


def _norm(x: Float[Tensor, "*layer a b"]) -> Float[Tensor, "*layer"]:
    return torch.linalg.matrix_norm(x)


def _ratio(
    part: Float[Tensor, "*layer"], whole: Float[Tensor, "*layer"]
) -> Float[Tensor, "*layer"]:
    """In [0, 1]; 0 of nothing."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0).clamp(
        0, 1
    )
