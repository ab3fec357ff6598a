"""What probes learn from and are judged on: labels, folds, parts of the domain, and scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InvalidValueError
from workbench.probes._fitters import Split
from workbench.rows import Group
from workbench.states import StatesOf

MAIN: tuple[Group, ...] = ("hazard", "benign")
Parts = Mapping[Group, Sequence[str]]
"""Part of the domain that each text of a group comes from."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Hazards, then benign prompts, then framed hazards, which are judged and never learnt from."""

    site: str
    groups: tuple[Group, ...]
    labels: Bool[Tensor, " n"]
    """True for hazards."""
    folds: Int[Tensor, " n"]
    """The fold that an example is held out with; a framed hazard with the hazard it frames."""
    main: int
    """How many are hazards or benign prompts."""
    parts: tuple[str, ...]
    """Of hazards and benign prompts; empty if it is not known."""
    unit: Float[Tensor, " layer"]
    """What states are divided by: the reference's root mean square distance from the mean."""

    @property
    def splits(self) -> list[Split]:
        """Each fold's training examples, and what is judged with it."""
        learnt = torch.arange(len(self.labels)) < self.main
        return [
            ((learnt & (self.folds != fold)).nonzero()[:, 0], (self.folds == fold).nonzero()[:, 0])
            for fold in self.folds.unique()
        ]

    @property
    def transfers(self) -> Iterator[tuple[str, str, Split]]:
        """(part learnt from, part judged, which examples), where both parts have both labels."""
        names, first = np.array(self.parts), next(iter(self.parts), "")
        labels = self.labels[: self.main].numpy()
        for other in dict.fromkeys(self.parts):
            masks = [names == first, names == other]
            if other != first and all(len(set(labels[mask])) == 2 for mask in masks):
                train, test = (torch.from_numpy(mask.nonzero()[0]) for mask in masks)
                yield first, other, (train, test)

    @property
    def judged(self) -> dict[str, Int[Tensor, " _"]]:
        """Texts judged: all, each with its fold; and framed hazards against benign prompts."""
        order = torch.arange(len(self.labels))
        found = {"all": order[: self.main]}
        if "framed" in self.groups:
            found["framed"] = order[~self.labels | (order >= self.main)]
        return found

    def shuffled(self, times: int, seed: int) -> Bool[Tensor, "set n"]:
        """Labels shuffled within each fold, so that every fold keeps as many of both."""
        random, sets = np.random.default_rng((seed, 1)), []
        for _ in range(times):
            labels = self.labels.clone()
            for fold in self.folds.unique():
                here = (self.folds[: self.main] == fold).nonzero()[:, 0]
                labels[here] = self.labels[here[torch.from_numpy(random.permutation(len(here)))]]
            sets.append(labels)
        return torch.stack(sets) if sets else self.labels[None][:0]

    def states(self, of: StatesOf) -> Float[Tensor, "layer n d_model"]:
        """The states of all examples, in the order of `labels`, in the units of the reference."""
        whole = torch.cat([of[group, self.site].values for group in self.groups], dim=1)
        if whole.shape[1] != len(self.labels):
            raise InvalidValueError(
                f"these are states of {whole.shape[1]} examples, the probe was fitted on "
                f"{len(self.labels)}; give states of the same texts."
            )
        return whole / self.unit[:, None, None].to(whole.dtype)


def prepared(then: StatesOf, site: str, parts: Parts, folds: int, seed: int) -> Examples:
    """The examples of the reference's states at one site.

    Args:
        then: states by group of text and site.
        site: which site.
        parts: part of the domain of every text; empty if it is not known.
        folds: how many; 0 for one hazard and one benign prompt each. (One example a fold would not
            do: the others' labels are then unbalanced against it, and chance looks like 0.)
        seed: of the draw of folds.

    Raises:
        InvalidValueError: no hazards, no benign prompts, or fewer of either than folds.
    """
    sizes = {g: len(then[g, site].examples) for g in MAIN if (g, site) in then}
    for group in MAIN:
        if sizes.get(group, 0) < max(folds, 2):
            raise InvalidValueError(
                f"there are {sizes.get(group, 0)} {group} prompts for {folds or 2} folds: a probe "
                "needs both hazardous and benign prompts, at least as many of each as folds. Give "
                "more prompts or fewer folds."
            )
    # The same draw for both: where hazard i and benign i are twins, they are held out together, or
    # a probe would judge a text by the opposite label of its twin.
    k = folds or min(sizes.values())
    own = np.concatenate(
        [np.random.default_rng((seed, 0)).permutation(n) % k for n in sizes.values()]
    )
    main = sum(sizes.values())
    framed = len(then["framed", site].examples) if ("framed", site) in then else 0
    framed *= framed == sizes["hazard"]  # without twins nothing says which fold may judge them
    values = torch.cat([then[g, site].values for g in sizes], dim=1).double()
    spread = (values - values.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()
    return Examples(
        site=site,
        groups=(*MAIN, "framed") if framed else MAIN,
        labels=torch.tensor([True] * sizes["hazard"] + [False] * sizes["benign"] + [True] * framed),
        folds=torch.from_numpy(np.concatenate([own, own[:framed]])),
        main=main,
        parts=tuple(part for g in sizes for part in parts.get(g, ())),
        unit=torch.where(spread > 0, spread, 1.0),
    )
