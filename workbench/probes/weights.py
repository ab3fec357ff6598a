"""Weight change: where in the model training wrote, part by part.

Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi & Farhadi, "Editing models with task
arithmetic", ICLR 2023, arXiv:2212.04089: the task vector τ = θ − θ_reference. Angles between task
vectors need a third checkpoint: `workbench compare A B --base C` gives them.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from workbench.activations.sites import anatomy
from workbench.errors import InvalidValueError
from workbench.panel import Panel
from workbench.probes._base import At, Measurement, Probe
from workbench.rows import Row, WeightChange
from workbench.rows.weights import Measure
from workbench.task_vectors import WHOLE, part_of, place, require_finite

ADAPTER = re.compile(r"\.lora_")


@dataclass(frozen=True, kw_only=True)
class Weights(Probe):
    """How far the weights of each part of the model are from the reference's."""

    writes: ClassVar[tuple[type[Row], ...]] = (WeightChange,)

    def against(self, reference: nn.Module | None, panel: Panel) -> Measurement:
        """Keep the reference's weights (on the CPU); the panel is not read."""
        if reference is None:
            raise InvalidValueError("a change of weights is from a reference; give one.")
        then = {name: x.cpu().clone() for name, x in weights(reference).items()}

        def measure(model: nn.Module, at: At) -> list[Row]:
            return list(_rows(weights(model), then, at))

        return measure


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of the plain model once, adapters added in; the model is not changed.

    Raises:
        InvalidValueError: an adapter that is no change of weights.
    """
    if any(p.is_meta for p in model.parameters()):
        raise InvalidValueError(
            "some weights are offloaded and not in memory, so they cannot be compared; load the "
            "model without device_map."
        )
    found: dict[str, Tensor] = {}
    for name, module in anatomy(model).base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            raise InvalidValueError(
                f"the adapter trains {name} whole beside its low-rank changes; merge it into the "
                "model first (merge_lora)."
            )
        if isinstance(module, BaseTunerLayer):
            found[f"{name}.weight"] = _adapted(name, module)
        elif not ADAPTER.search(name):
            for own, parameter in module.named_parameters(recurse=False):
                path = f"{name.removesuffix('.base_layer')}.{own}"
                found.setdefault(path, parameter.detach())
    return _once(found)


def _adapted(name: str, module: Any) -> Tensor:
    if not isinstance(module, LoraLayer):
        raise InvalidValueError(
            f"the adapter at {name} ({type(module).__name__}) is no change of weights; merge it "
            "into the model first."
        )
    weight = module.get_base_layer().weight.detach()
    if module.disable_adapters or module.merged:
        return weight
    owned = {*module.lora_A, *module.lora_embedding_A}
    deltas = [module.get_delta_weight(a) for a in module.active_adapters if a in owned]
    # wide: in bf16 a small change would be rounded away before it is measured
    return weight.float() + sum(x.detach().float() for x in deltas) if deltas else weight


def _once(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights count where they come first."""
    seen: set[int] = set()
    return {n: x for n, x in found.items() if not (x.data_ptr() in seen or seen.add(x.data_ptr()))}  # type: ignore[func-returns-value]


def _rows(now: dict[str, Tensor], then: dict[str, Tensor], at: At) -> Iterator[Row]:
    if {n: x.shape for n, x in now.items()} != {n: x.shape for n, x in then.items()}:
        raise InvalidValueError(
            "the checkpoint and its reference do not have the same weights, so there is no "
            "difference between them; give checkpoints of one architecture and size."
        )
    changed: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for name, x in now.items():
        base = then[name].double()
        for part in (part_of(name), WHOLE):
            changed[part] += float((x.cpu().double() - base).square().sum())
            size[part] += float(base.square().sum())
            count[part] += x.numel()
    require_finite(f"the reference {at.reference}".rstrip(), size)
    require_finite("the checkpoint", changed)
    for part in sorted(changed, key=place):
        numbers: dict[Measure, float] = {
            "norm": math.sqrt(changed[part]),
            "relative_norm": math.sqrt(changed[part] / size[part]) if size[part] else 0.0,
            "share": changed[part] / changed[WHOLE] if changed[WHOLE] else 0.0,
        }
        for measure, value in numbers.items():
            yield WeightChange(
                stage=at.stage,
                step=at.step,
                reference=at.reference,
                beside="",
                part=part,
                measure=measure,
                value=value,
                n=count[part],
            )
