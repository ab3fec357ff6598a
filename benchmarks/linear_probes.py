"""Row about linear probes: all layers from one Gram matrix each, beside scikit-learn's loop."""

import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from benchmarks.measure import Figure, Work, interleaved
from benchmarks.table import Bench, Row
from workbench.probes._discrimination import auroc
from workbench.probes._fitters import ALPHAS, Ridge, Split

USUAL = {"layers": 32, "examples": 256, "d_model": 2048}
LAB = {"layers": 6, "examples": 192, "d_model": 96}
TINY = {"layers": 2, "examples": 40, "d_model": 32}
FOLDS = 5


def states(layers: int, examples: int, d_model: int) -> tuple[Tensor, Tensor, Tensor]:
    """States of two classes that a probe tells apart some of the time, their labels and folds."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(examples) % 2 == 0
    apart = torch.randn(layers, 1, d_model, generator=draw) * 2 / d_model**0.5
    x = torch.randn(layers, examples, d_model, generator=draw)
    return x + labels[:, None] * apart, labels, torch.arange(examples) // 2 % FOLDS


def splits(folds: Tensor) -> list[Split]:
    """Each fold's training and test examples."""
    return [((folds != k).nonzero()[:, 0], (folds == k).nonzero()[:, 0]) for k in range(FOLDS)]


def ours(x: Tensor, labels: Tensor, folds: Tensor) -> list[Tensor]:
    """Held-out decision values of every layer, by fold."""
    return [found[0] for found in Ridge().held_out(x, labels[None], splits(folds))]


def scikit_learn(x: Tensor, labels: Tensor, folds: Tensor) -> list[Tensor]:
    """The same, a classifier a layer and fold; it computes in fp64 as ours does."""
    wide, y = x.double().numpy(), labels.numpy()
    return [
        torch.stack(
            [
                torch.from_numpy(
                    RidgeClassifierCV(alphas=ALPHAS).fit(one[a], y[a]).decision_function(one[b])
                )
                for one in wide
            ]
        )
        for a, b in ((a.numpy(), b.numpy()) for a, b in splits(folds))
    ]


def compared(shape: dict[str, int], rounds: int) -> Figure:
    """Both on the same states; first that they read the same."""
    x, labels, folds = states(**shape)
    order = torch.cat([test for _, test in splits(folds)]).argsort()

    def read(found: list[Tensor]) -> Tensor:
        return auroc(torch.cat(found, dim=1)[:, order], labels, folds)

    found = [read(way(x, labels, folds)) for way in (ours, scikit_learn)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)
    work: list[Work] = [lambda way=way: way(x, labels, folds) for way in (ours, scikit_learn)]  # type: ignore[misc]
    times = interleaved(work[0], work[1], rounds=rounds, warmup=1)
    auc = {"folds": FOLDS, "alphas": len(ALPHAS), "mean_auroc": round(found[0].mean().item(), 4)}
    return times.figure(shape | auc)


def probes_time(quick: bool) -> list[Figure]:
    """Of a model of some size; of the lab's in the configuration."""
    figure = compared(TINY if quick else USUAL, 3 if quick else 12)
    small = compared(TINY if quick else LAB, 3 if quick else 30)
    figure.configuration["ratio_lab_size"] = round(small.value, 4)
    figure.configuration["lab_size"] = small.configuration
    return [figure]


BENCHES = (
    Bench(
        (
            Row(
                "linear_probes_ratio",
                "ridge probes of all layers, 5 folds, 7 α by leave-one-out / one at a time",
                goal=1.0,
                peer="scikit-learn, RidgeClassifierCV a layer and fold",
            ),
        ),
        probes_time,
    ),
)
