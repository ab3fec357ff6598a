"""What an open context holds: the activations of `record`, the functions of `intervene`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from workbench.activations.sites import Port, Site
from workbench.errors import SiteError

Edit = Callable[[Tensor, str], Tensor | None]
"""Maps an activation and its site's name to a replacement, or to None to leave it as it is."""
Select = Callable[[Tensor, str], Tensor]
"""Maps an activation and its site's name to the part worth keeping."""
V = TypeVar("V")


class Activations(Mapping[str, Tensor]):
    """What one `record` context has seen: site name -> activation of the last forward pass.

    Detached recordings are private copies, because some blocks (Falcon's) add to these very tensors
    in place later on, and because a slice would keep the whole activation alive. Recordings with
    `grad=True` stay in the graph, where a copy would not do; for them a change in place is detected
    by the tensor's version counter when the context closes.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        grad: bool = False,
        select: Select | None = None,
        to: torch.device | torch.dtype | str | None = None,
    ):
        self.names = tuple(site.name for site in sites)
        self.at = by_port((site, site.name) for site in sites)
        self.counts: Counter[str] = Counter()
        """How many forward passes went through each site."""
        self._grad, self._select, self._to = grad, select, to
        self._kept: dict[str, Tensor] = {}
        self._live: list[tuple[str, Tensor, int]] = []

    def take(self, port: Port, x: Tensor) -> None:
        """Keep what passes through a port."""
        for name in self.at.get(port, ()):
            self.counts[name] += 1
            self._kept[name] = self._in_graph(name, x) if self._grad else self._copy(name, x)

    def _copy(self, name: str, x: Tensor) -> Tensor:
        part = x.detach()
        if self._select is not None:
            part = self._select(part, name)
        return part.clone() if self._to is None else part.to(self._to, copy=True)

    def _in_graph(self, name: str, x: Tensor) -> Tensor:
        if not x.is_inference():  # inference tensors have no version counter
            self._live.append((name, x, x._version))
        part = x if self._select is None else self._select(x, name)
        return part if self._to is None else part.to(self._to)

    def verify(self) -> None:
        """Check, when the context closes, that what was asked for is there and still true.

        Raises:
            SiteError: a site never fired, or was overwritten in place after it was recorded.
        """
        require_fired(self.names, self.counts, "recorded")
        changed = dict.fromkeys(name for name, x, version in self._live if x._version != version)
        if changed:
            raise SiteError(
                f"changed in place after being recorded with grad=True: {', '.join(changed)}. "
                "Somebody wrote into these tensors, so they no longer hold what passed through the "
                "site. Record with grad=False, which copies."
            )

    def release(self) -> None:
        """Let go of what only the check needed."""
        self._live.clear()

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._kept[name]
        except KeyError:
            have = ", ".join(self._kept) or "nothing yet"
            raise SiteError(f"{name!r} was not recorded. Recorded: {have}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class Edits:
    """The functions of one `intervene` context, by the place where they act."""

    def __init__(
        self, edits: Sequence[tuple[Site, Edit]], generators: Sequence[torch.Generator] = ()
    ):
        self.names = tuple(site.name for site, _ in edits)
        self.at = by_port((site, (site.name, edit)) for site, edit in edits)
        self.generators = tuple(generators)
        self.counts: Counter[str] = Counter()

    def apply(self, port: Port, x: Tensor) -> Tensor:
        """The activation after this context's edits at a port."""
        for name, edit in self.at.get(port, ()):
            self.counts[name] += 1
            new = edit(x, name)
            if new is not None:
                x = like(new, x, name)
        return x

    def verify(self) -> None:
        """Check, when the context closes, that every edit was applied at least once.

        Raises:
            SiteError: a site never fired, so its edit had no effect.
        """
        require_fired(self.names, self.counts, "edited")

    def release(self) -> None:
        """Nothing is held beyond the context."""


def require_fired(names: Iterable[str], counts: Mapping[str, int], verb: str) -> None:
    """Refuse a site that was asked for and never reached.

    Raises:
        SiteError: at least one site never fired.
    """
    names = list(dict.fromkeys(names))
    silent = [name for name in names if not counts.get(name)]
    if silent:
        fired = ", ".join(name for name in names if counts.get(name)) or "none"
        raise SiteError(
            f"never fired, so nothing was {verb} there: {', '.join(silent)}. Fired: {fired}. "
            "Either no forward pass of this model ran inside the context (in this thread), or it "
            "skipped these modules, or the model was compiled before the context was opened."
        )


def like(new: object, old: Tensor, name: str) -> Tensor:
    """The replacement, if it can stand where the activation stood.

    Raises:
        SiteError: another shape or type.
    """
    if not isinstance(new, Tensor):
        raise SiteError(f"the edit at {name} returned {type(new).__name__}, not a tensor or None.")
    if new.shape != old.shape or new.dtype != old.dtype:
        raise SiteError(
            f"the edit at {name} returned {new.dtype} {tuple(new.shape)}; the activation there is "
            f"{old.dtype} {tuple(old.shape)}, and a replacement must have its type and shape."
        )
    return new


def by_port(pairs: Iterable[tuple[Site, V]]) -> dict[Port, list[V]]:
    """Group values by the place where their sites are hooked."""
    at: dict[Port, list[V]] = {}
    for site, value in pairs:
        at.setdefault(site.port, []).append(value)
    return at
