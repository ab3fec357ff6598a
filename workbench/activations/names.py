"""From what people write (`resid_post.3`, globs) to canonical site names, or to a helpful error."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from workbench.errors import SiteError

_BLOCK = re.compile(r"blocks\.(\d+)\.hook_(.+)")


def resolve(
    patterns: Iterable[str], sites: Sequence[str], dropped: Mapping[str, str]
) -> tuple[str, ...]:
    """Canonical names for patterns, in the order given, each once.

    A pattern is a canonical name, a short form (`resid_post` for all layers, `resid_post.3` for
    one, `embed`), or a glob over either.

    Raises:
        SiteError: a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        names = next((hits for form in forms(pattern) if (hits := matching(form, sites))), [])
        if not names:
            raise SiteError(unknown(pattern, sites, dropped))
        found.update(dict.fromkeys(names))
    return tuple(found)


def forms(pattern: str) -> list[str]:
    """The canonical patterns that a pattern may stand for, the most literal first."""
    head, _, layer = pattern.partition(".")
    return [pattern, f"blocks.{layer or '*'}.hook_{head}", f"hook_{pattern}", f"{pattern}.hook_out"]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a glob matches."""
    return [name for name in names if fnmatchcase(name, pattern)]


def unknown(pattern: str, sites: Sequence[str], dropped: Mapping[str, str]) -> str:
    """What to say about a pattern that matches nothing."""
    lost = [name for form in forms(pattern) for name in matching(form, dropped)]
    if lost:
        reason = f"{lost[0]}: {dropped[lost[0]]}"
        return f"{pattern!r} does not exist in this model ({reason}). {listing(sites)}"
    shorts = {m[2]: None for name in sites if (m := _BLOCK.fullmatch(name))}
    head, dot, layer = pattern.partition(".")
    near = [short + dot + layer for short in get_close_matches(head, shorts, n=1)]
    near = [n for n in near if any(matching(f, sites) for f in forms(n))]
    near += get_close_matches(pattern, sites, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no activation site matches {pattern!r}.{hint} {listing(sites)}"


def listing(sites: Sequence[str]) -> str:
    """The sites of a model on one line: blocks together, short names once."""
    blocks = [m for name in sites if (m := _BLOCK.fullmatch(name))]
    shorts = ", ".join(dict.fromkeys(m[2] for m in blocks))
    layers = [int(m[1]) for m in blocks]
    other = ", ".join(name for name in sites if not _BLOCK.fullmatch(name))
    return (
        f"This model has {other} and, for layers {min(layers)} to {max(layers)}, "
        f"blocks.<layer>.hook_<name> (short: <name>.<layer>, <name>) with <name> one of: {shorts}."
    )
