"""What a measurement depends on: its configuration, the code that made it, libraries, commit."""

import ast
import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.errors import InvalidValueError, UnknownNameError

PACKAGE = "workbench"
ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "accelerate",
    "numpy",
    "peft",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
"""The libraries whose code decides the numbers."""


def config_hash(config: object) -> str:
    """Hash of a configuration: equal settings give equal hashes in every process.

    Dataclasses count with their class; tuples are lists; a float without a fraction is an integer.

    Raises:
        InvalidValueError: it holds something that has no canonical form (NaN, a set, an object).
    """
    return _digest(json.dumps(_canonical(config), sort_keys=True))


def _canonical(value: Any) -> Any:
    match value:
        case None | bool() | str() | int():
            return value
        case float() if value.is_integer():
            return int(value)
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_canonical(item) for item in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _canonical(item) for key, item in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            held = {f.name: _canonical(getattr(value, f.name)) for f in fields(value)}
            return {"class": type(value).__qualname__, "fields": held}
        case _:
            raise InvalidValueError(
                f"{value!r:.80} cannot be part of a configuration: use finite numbers, text, "
                "lists, dicts with text keys, or dataclasses of these."
            )


def code_hash(*modules: str, root: Path = ROOT) -> str:
    """Hash of the code of some workbench modules and of all workbench modules they import.

    Found by reading, not by importing. Comments, docstrings and layout do not count. A name that a
    package only passes on counts as the module it comes from, so that a method's hash does not
    depend on the other methods of the registry beside it.

    Args:
        *modules: dotted names, e.g. `workbench.defences.vaccine`.
        root: the folder that holds the package.

    Raises:
        UnknownNameError: there is no such module.
    """
    found = imported(*modules, root=root)
    return _digest(json.dumps([(name, ast.dump(_tree(_file(name, root)))) for name in found]))


def imported(*modules: str, root: Path = ROOT) -> list[str]:
    """The modules given and every workbench module they import, directly or not, sorted."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name, root))
    return sorted(found)


def _imports(module: str, root: Path) -> Iterator[str]:
    """The workbench modules one module imports, wherever in its code it does so."""
    path = _file(module, root)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if _exists(a.name, root))
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, module, path)
            if _exists(source, root):
                for alias in node.names:
                    yield _origin(source, alias.name, root)


def _origin(module: str, name: str, root: Path) -> str:
    """The module that a name imported from another one comes from."""
    if _exists(f"{module}.{name}", root):
        return f"{module}.{name}"
    path = _file(module, root)
    if path.name == "__init__.py":
        for node in _tree(path).body:
            if isinstance(node, ast.ImportFrom):
                source = _source(node, module, path)
                for alias in node.names if source != module and _exists(source, root) else ():
                    if (alias.asname or alias.name) == name:
                        return _origin(source, alias.name, root)
    return module


def _source(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The absolute name of the module that a `from` import names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _candidates(module: str, root: Path) -> list[Path]:
    path = root.joinpath(*module.split("."))
    return [path / "__init__.py", path.with_suffix(".py")]


def _exists(module: str, root: Path) -> bool:
    inside = module.split(".", maxsplit=1)[0] == PACKAGE
    return inside and any(path.is_file() for path in _candidates(module, root))


def _file(module: str, root: Path) -> Path:
    if not _exists(module, root):
        known = (
            ".".join(p.relative_to(root).with_suffix("").parts)
            for p in (root / PACKAGE).rglob("*.py")
        )
        raise UnknownNameError("module", module, known)
    return next(path for path in _candidates(module, root) if path.is_file())


def _tree(path: Path) -> ast.Module:
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, changed: int) -> ast.Module:
    """A module's code without docstrings, read again when the file has changed."""
    return _Bare().visit(ast.parse(path.read_bytes(), str(path)))


class _Bare(ast.NodeTransformer):
    """Drops text that stands alone as a statement: docstrings of modules, functions, fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        constant = isinstance(node.value, ast.Constant)
        return None if constant and isinstance(node.value.value, str) else node  # type: ignore[attr-defined]


def library_versions() -> dict[str, str]:
    """Full versions of Python and of the libraries behind the numbers, for the record."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def library_majors() -> dict[str, str]:
    """The part of those versions that may change numbers: the major, or `0.minor` before 1.0."""
    return {name: _major(name, version) for name, version in library_versions().items()}


def _major(name: str, version: str) -> str:
    major, minor, *_ = [*version.split("."), "0"]
    return f"{major}.{minor}" if name == "python" or major == "0" else major


@cache
def git_state() -> dict[str, Any] | None:
    """Commit of the workbench's code and whether the package differs from it; None if unknown."""
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name, folder=here.parent) is None:
        return None  # installed, or a folder inside somebody else's repository
    commit = _git("rev-parse", "HEAD", folder=here.parent)
    changes = _git("status", "--porcelain", "--", ".", folder=here.parent)
    return None if commit is None else {"commit": commit, "dirty": changes != ""}


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
