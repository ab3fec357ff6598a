"""Models whose parameters several processes share (FSDP2: `fully_shard`).

Each process keeps a part of every parameter; what belongs to a sharded module is gathered when that
module runs. The outermost one keeps its parameters whole after a forward pass, because backward
comes next as a rule. Where none comes, the next forward pass would use them again, even if an
optimiser step has changed the parts meanwhile.
"""

from torch import distributed, nn

from workbench.errors import ModelError


def sharded_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that gather parameters when they run; none in a model of one process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return []
    from torch.distributed.fsdp import FSDPModule  # exists only where torch.distributed does

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def reshard(model: nn.Module) -> None:
    """Free gathered parameters, so that the next forward pass gathers them as they are by then.

    Changes no number and needs no other process. Call it after a forward pass that no backward
    follows, on the model as it was sharded: a wrapper above (PEFT) may be the outermost module.
    """
    for module in sharded_modules(model):
        module.reshard()  # type: ignore[operator]


def refuse_part(whole: nn.Module, part: nn.Module) -> None:
    """Refuse to run a part whose parameters are gathered by a module above it.

    Raises:
        ModelError: there is such a module.
    """
    inside = set(part.modules())
    if any(module not in inside for module in sharded_modules(whole)):
        raise ModelError(
            f"{type(part).__name__} cannot run alone: it belongs to a model that is sharded "
            "(FSDP2), whose parameters are gathered only when the whole model runs. Record with "
            "workbench.recording.Recorder, or run the whole model inside record()."
        )
