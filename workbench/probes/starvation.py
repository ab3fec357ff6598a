"""Gradient starvation: which groups of text get a share of the common gradient, and which starve.

Pezeshki, Kaba, Bengio, Courville, Precup & Lajoie, "Gradient starvation: a learning proclivity in
neural networks", NeurIPS 2021, arXiv:2011.09468: what is learnt first takes the gradient from what
is not. Between groups of examples, as Chen, Han, Shen, Bai & Wong, "Vulnerability-aware alignment:
mitigating uneven forgetting in harmful fine-tuning", ICML 2025, arXiv:2506.03850, let them compete:
groups that alignment starves are forgotten first under attack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from workbench.data import encode
from workbench.errors import InvalidValueError, MissingStreamError
from workbench.example_gradients import gradient_gram
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.probes._starvation import clusters, cosines, shares
from workbench.rows import GradientCosine, GradientShare, Group, Row

GROUPS: tuple[Group, ...] = ("hazard", "benign", "refused")


@dataclass(frozen=True, kw_only=True)
class Starvation(Probe):
    """Share of each group of examples in the mean gradient of all, and angles between groups.

    Groups are kinds of text (hazards complied with, benign requests answered, hazards refused), the
    questions' domains within each kind and, if asked for, clusters of the gradients themselves.
    """

    writes: ClassVar[tuple[type[Row], ...]] = (GradientShare, GradientCosine)
    needs_reference: ClassVar[bool] = False

    prompts: int = 8
    """So many prompts of each kind and domain."""
    clusters: int = 0
    """So many clusters of gradients by k-means; 0 for none. Those of the reference stay, if there
    is one, so that they mean the same at every checkpoint."""
    dimensions: int = 16
    """Dimensions that gradients are randomly projected to before they are clustered."""
    seed: int = 0
    """Of the projection and of k-means."""
    frozen: bool = False
    """Whether parameters that do not require gradients count too, e.g. those below an adapter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("prompts", 1), ("dimensions", 1), ("clusters", 0)):
            if getattr(self, name) < least:
                raise InvalidValueError(
                    f"{name} must be at least {least}, not {getattr(self, name)}."
                )
        if self.clusters == 1:
            raise InvalidValueError("clusters must be 0 for none, or at least 2, not 1.")

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Choose the texts, and the reference's clusters if some are asked for."""
        texts = _Texts.of(panel, min(self.prompts, panel.size))
        fixed: list[str] | None = None
        if self.clusters and reference is not None:
            fixed = self._clusters(self._gram(reference, texts))

        def measure(model: nn.Module, at: At) -> list[Row]:
            gram = self._gram(model, texts)
            labels: dict[str, list[str]] = {"kind": texts.kinds}
            if len(set(texts.domains)) > len(set(texts.kinds)):
                labels["domain"] = texts.domains
            if self.clusters:
                labels["cluster"] = fixed or self._clusters(gram)
            return [
                row
                for by, names in labels.items()
                if len(set(names)) > 1
                for row in _rows(gram, by, names, at)
            ]

        return measure

    def _gram(self, model: nn.Module, texts: "_Texts") -> Float[Tensor, "example example"]:
        return gradient_gram(model, texts.batches, frozen=self.frozen)

    def _clusters(self, gram: Float[Tensor, "example example"]) -> list[str]:
        return clusters(gram, self.clusters, self.dimensions, self.seed)


@dataclass(frozen=True)
class _Texts:
    """The examples whose gradients are taken, with their labels."""

    batches: list[Any]
    kinds: list[str]
    domains: list[str]
    """Kind and domain, e.g. `hazard, unseen`."""

    @classmethod
    def of(cls, panel: Panel, prompts: int) -> "_Texts":
        """As many examples of each kind and domain, of the kinds that there are."""
        batches: list[Any] = []
        kinds: list[str] = []
        domains: list[str] = []
        for group in GROUPS:
            try:
                questions = list(panel.domain.texts(panel.split, group))
            except MissingStreamError:
                continue
            by_domain: dict[str, list[int]] = {}
            for i, q in enumerate(questions):
                by_domain.setdefault(q.domain, []).append(i)
            chosen = [i for places in by_domain.values() for i in places[:prompts]]
            if chosen:
                examples = [questions[i].example for i in chosen]
                batches.append(encode(panel.tokenizer, examples, side=panel.side))
                kinds += [group] * len(chosen)
                domains += [f"{group}, {questions[i].domain}" for i in chosen]
        if len(set(domains)) < 2:
            raise InvalidValueError(
                f"starvation compares groups of text; {panel.domain.name} has one in the split "
                f"{panel.split!r}: {', '.join(set(domains)) or 'none'}."
            )
        return cls(batches, kinds, domains)


def _rows(
    gram: Float[Tensor, "example example"], by: str, labels: Sequence[str], at: At
) -> list[Row]:
    found = shares(gram, labels)
    where: dict[str, Any] = {"stage": at.stage, "step": at.step, "group_by": by}
    rows: list[Row] = [
        GradientShare(**where, group=group, measure=measure, value=value, n=one.n)  # type: ignore[arg-type]
        for group, one in found.items()
        for measure, value in (("share", one.share), ("norm", one.norm), ("gsnr", one.gsnr))
        if value is not None
    ]
    return rows + [
        GradientCosine(**where, group=a, other=b, value=value, n=found[a].n + found[b].n)
        for (a, b), value in cosines(gram, labels).items()
    ]
