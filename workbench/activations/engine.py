"""What happens at a torch hook, and when a hook is there at all.

Hooks are attached to a module while at least one context needs it, and removed with the last one:
outside contexts a model carries none of ours. One hook a module side serves every context, so that
the order is defined whoever opened what when: edits run from the outermost context to the
innermost, then recordings take the edited value.

Which contexts are open is a context variable. Therefore each thread's contexts see that thread's
forward passes only, although all threads share the module and its hook.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workbench.activations.contexts import Activations, Edits
from workbench.activations.sites import Port, Side

EDITS: ContextVar[tuple[Edits, ...]] = ContextVar("edits", default=())
RECORDINGS: ContextVar[tuple[Activations, ...]] = ContextVar("recordings", default=())
Entry = TypeVar("Entry", bound=Edits | Activations)


@contextmanager
def opened(var: ContextVar[tuple[Entry, ...]], entry: Entry) -> Iterator[Entry]:
    """Let an entry see this thread's forward passes; check it on a clean exit.

    An entry removes itself and nothing else, so contexts may close in any order, as they do when
    generators hold them.
    """
    attach(entry.at)
    var.set((*var.get(), entry))
    try:
        yield entry
        entry.verify()
    finally:
        var.set(tuple(other for other in var.get() if other is not entry))
        detach(entry.at)
        entry.release()


@contextmanager
def instead(edits: tuple[Edits, ...], recordings: tuple[Activations, ...]) -> Iterator[None]:
    """Have these contexts open in this thread, and no others."""
    outside = EDITS.get(), RECORDINGS.get()
    EDITS.set(edits)
    RECORDINGS.set(recordings)
    ports = [port for entry in edits for port in entry.at]
    ports += [port for recording in recordings for port in recording.at]
    attach(ports)
    try:
        yield
    finally:
        detach(ports)
        EDITS.set(outside[0])
        RECORDINGS.set(outside[1])


_LOCK = threading.Lock()
_ATTACHED: WeakKeyDictionary[nn.Module, dict[Side, tuple[RemovableHandle, int]]]
_ATTACHED = WeakKeyDictionary()


def attach(ports: Iterable[Port]) -> None:
    """Count one more user of each port; the first one attaches the torch hook."""
    with _LOCK:
        for side, module in ports:
            sides = _ATTACHED.setdefault(module, {})
            handle, users = sides.get(side) or (_register(side, module), 0)
            sides[side] = handle, users + 1


def detach(ports: Iterable[Port]) -> None:
    """Count one user less of each port; the last one removes the torch hook."""
    with _LOCK:
        for side, module in ports:
            handle, users = _ATTACHED[module].pop(side)
            if users > 1:
                _ATTACHED[module][side] = handle, users - 1
            else:
                handle.remove()


def _register(side: Side, module: nn.Module) -> RemovableHandle:
    if side == "in":
        return module.register_forward_pre_hook(_before, with_kwargs=True)
    return module.register_forward_hook(_after)


def _before(module: nn.Module, args: tuple, kwargs: dict[str, Any] | None = None) -> Any:
    # Torch may leave out `kwargs` when another thread removes the hook while this one is entering
    # the module; then no context of this thread is at this port, and there is nothing to do.
    if args:
        new = _through(("in", module), args[0])
        return None if new is args[0] else ((new, *args[1:]), kwargs)
    if not kwargs or "hidden_states" not in kwargs:
        return None
    new = _through(("in", module), kwargs["hidden_states"])
    return None if new is kwargs["hidden_states"] else (args, {**kwargs, "hidden_states": new})


def _after(module: nn.Module, args: tuple, out: Any) -> Any:
    if isinstance(out, tuple):  # attention returns (output, weights), some MoE (output, router)
        new = _through(("out", module), out[0])
        return None if new is out[0] else (new, *out[1:])
    new = _through(("out", module), out)
    return None if new is out else new


def _through(port: Port, x: Tensor) -> Tensor:
    for edits in EDITS.get():
        x = edits.apply(port, x)
    for recording in RECORDINGS.get():
        recording.take(port, x)
    return x
