"""What probes learn from and are judged on: labels, folds, parts of the domain, and scale.

The unit is the prompt, not the row: answers to one prompt share the state at its last token, and a
fold apart they would let a probe recognise the prompt instead of the hazard. So rows of one prompt
are held out together, and shuffled labels stay with the prompt.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from workbench.domains import Question
from workbench.errors import InvalidValueError, WorkbenchWarning
from workbench.probes._fitters import Split
from workbench.rows import Group
from workbench.states import StatesOf

MAIN: tuple[Group, ...] = ("hazard", "benign")
Texts = Mapping[Group, Sequence[Question]]
"""The questions whose states are read."""
SAME = 0.01
"""Rows this close at every layer, as a share of the spread, count as one prompt where no text is
known: recordings round, and to hold out too much together is the safe side."""
PARTS = 4
"""Parts of the domain that transfer is judged between, at most: the largest, 12 ordered pairs."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Hazards, then benign prompts, then framed hazards, which are judged and never learnt from."""

    site: str
    groups: tuple[Group, ...]
    labels: Bool[Tensor, " n"]
    """True for hazards."""
    folds: Int[Tensor, " n"]
    """The fold that an example is held out with; a framed hazard with the hazard it frames."""
    prompts: Int[Tensor, " main"]
    """Number of each row's prompt: equal prompts, equal numbers."""
    parts: tuple[str, ...]
    """Of hazards and benign prompts; empty if it is not known."""
    unit: Float[Tensor, " layer"]
    """What states are divided by: the reference's root mean square distance from the mean."""

    @property
    def main(self) -> int:
        """How many are hazards or benign prompts."""
        return len(self.prompts)

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
        """(part learnt from, part judged, which examples), every two parts and both ways.

        Parts need both labels. A prompt of both parts is judged and not learnt from.
        """
        names, labels = np.array(self.parts), self.labels[: self.main].numpy()
        for one, other in permutations(_both(self.parts, labels)[:PARTS], 2):
            test = names == other
            train = (names == one) & ~np.isin(self.prompts, self.prompts[test])
            if len(set(labels[train])) == 2:
                learnt, judged = (torch.from_numpy(x.nonzero()[0]) for x in (train, test))
                yield one, other, (learnt, judged)

    @property
    def judged(self) -> dict[str, Int[Tensor, " _"]]:
        """Texts judged: all, each with its fold; and framed hazards against benign prompts."""
        order = torch.arange(len(self.labels))
        found = {"all": order[: self.main]}
        if "framed" in self.groups:
            found["framed"] = order[~self.labels | (order >= self.main)]
        return found

    @property
    def blocks(self) -> list[Int[Tensor, " _"]]:
        """The hazards and benign prompts of each fold."""
        folds = self.folds[: self.main]
        return [(folds == fold).nonzero()[:, 0] for fold in folds.unique()]

    def labelled(
        self, shuffles: int, seed: int, blocks: Sequence[Int[Tensor, " _"]]
    ) -> Bool[Tensor, "set n"]:
        """The true labels, and after them sets in which prompts swapped labels within each block.

        So every block keeps as many prompts of both. A framed hazard has the label of its hazard.
        """
        random, sets = np.random.default_rng((seed, 1)), [self.labels]
        unit = (2 * self.prompts + self.labels[: self.main]).numpy()
        for _ in range(shuffles):
            labels = self.labels.clone()
            for here in blocks:
                _, first, which = np.unique(unit[here], return_index=True, return_inverse=True)
                drawn = self.labels[here[first]][torch.from_numpy(random.permutation(len(first)))]
                labels[here] = drawn[torch.from_numpy(which)]
            labels[self.main :] = labels[: len(labels) - self.main]
            sets.append(labels)
        return torch.stack(sets)

    def states(self, of: StatesOf) -> Float[Tensor, "layer n d_model"]:
        """The states of all examples, in the order of `labels`, in the units of the reference."""
        whole = torch.cat([of[group, self.site].values for group in self.groups], dim=1)
        if whole.shape[1] != len(self.labels):
            raise InvalidValueError(
                f"these are states of {whole.shape[1]} examples, the probe was fitted on "
                f"{len(self.labels)}; give states of the same texts."
            )
        return whole / self.unit[:, None, None].to(whole.dtype)


def prepared(then: StatesOf, site: str, texts: Texts, folds: int, seed: int) -> Examples:
    """The examples of the reference's states at one site.

    Args:
        then: states by group of text and site.
        site: which site.
        texts: what was read; empty if it is not known, as of recordings. Then equal states stand
            for equal prompts, and there are no parts.
        folds: how many; 0 for one hazard and one benign prompt each. (One example a fold would not
            do: the others' labels are then unbalanced against it, and chance looks like 0.)
        seed: of the draw of folds.

    Raises:
        InvalidValueError: no hazards, no benign prompts, or fewer prompts of either than folds.
    """
    for group in MAIN:
        if (group, site) not in then:
            raise InvalidValueError(
                f"there are no {group} prompts: a probe needs both hazardous and benign prompts."
            )
    sizes = {g: len(then[g, site].examples) for g in MAIN}
    values = torch.cat([then[g, site].values for g in MAIN], dim=1).double()
    spread = (values - values.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()
    unit = torch.where(spread > 0, spread, 1.0)
    asked = [q for g in MAIN for q in texts.get(g, ())]
    prompts = _by_text(asked) if asked else _by_state(values / unit[:, None, None])
    own = _folds(dict(zip(sizes, prompts.split(list(sizes.values())), strict=True)), folds, seed)
    framed = _framed(then, site, sizes["hazard"])
    parts = tuple(q.source or q.domain for q in asked)
    labels = torch.tensor([True] * sizes["hazard"] + [False] * sizes["benign"] + [True] * framed)
    if len(both := _both(parts, labels.numpy())) > PARTS:
        _warn(
            f"transfer is judged between the {PARTS} largest parts of the data: "
            f"{', '.join(both[:PARTS])}. Left out: {', '.join(both[PARTS:])}."
        )
    return Examples(
        site=site,
        groups=(*MAIN, "framed") if framed else MAIN,
        labels=labels,
        folds=torch.cat([own, own[:framed]]),
        prompts=prompts,
        parts=parts,
        unit=unit,
    )


def _by_text(asked: Sequence[Question]) -> Int[Tensor, " main"]:
    """Numbers of the prompts, in the order in which they first come."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(q.prompt.strip(), len(numbers)) for q in asked])


def _by_state(x: Float[Tensor, "layer main d_model"]) -> Int[Tensor, " main"]:
    """Numbers of the sets of rows whose states are the same at every layer."""
    near = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    for layer in x:
        near &= torch.cdist(layer, layer) <= SAME
    return torch.from_numpy(connected_components(near.numpy(), directed=False)[1]).long()


def _folds(
    prompts: Mapping[Group, Int[Tensor, " _"]], folds: int, seed: int
) -> Int[Tensor, " main"]:
    """The fold of every row: drawn for each different prompt.

    The same draw for both kinds: where hazard i and benign i are twins, they are held out together,
    or a probe would judge a text by the opposite label of its twin. A prompt of both kinds has one.
    """
    different = {group: list(dict.fromkeys(of.tolist())) for group, of in prompts.items()}
    for group, numbers in different.items():
        if len(numbers) < max(folds, 2):
            raise InvalidValueError(
                f"there are {len(numbers)} different {group} prompts for {folds or 2} folds: a "
                "probe needs at least as many of each kind as folds. Give more prompts or fewer "
                "folds."
            )
    k, fold_of = folds or min(map(len, different.values())), dict[int, int]()
    for numbers in different.values():
        drawn = np.random.default_rng((seed, 0)).permutation(len(numbers)) % k
        for number, fold in zip(numbers, drawn.tolist(), strict=True):
            fold_of.setdefault(number, fold)
    return torch.tensor([fold_of[i] for of in prompts.values() for i in of.tolist()])


def _framed(then: StatesOf, site: str, hazards: int) -> int:
    """How many framed hazards can be judged: all, if each has the hazard that it frames."""
    framed = len(then["framed", site].examples) if ("framed", site) in then else 0
    if framed in (0, hazards):
        return framed
    _warn(
        f"{framed} framed hazards are left out, as there are {hazards} plain ones: without a plain "
        "twin each, nothing says which fold may judge them."
    )
    return 0


def _both(parts: Sequence[str], labels: Bool[np.ndarray, " n"]) -> list[str]:
    """The parts that have hazards and benign prompts, the largest first."""
    names = np.array(parts)
    both = [p for p in dict.fromkeys(parts) if len(set(labels[: len(parts)][names == p])) == 2]
    return sorted(both, key=lambda p: -parts.count(p))


def _warn(sentence: str) -> None:
    warnings.warn(sentence, WorkbenchWarning, stacklevel=4)
