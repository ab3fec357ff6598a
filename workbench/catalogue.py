"""What exists: every defence, attack, probe and figure, as data that can be read without torch.

`catalogue.json` is made from the registries by `python -m workbench.catalogue`, and a test says
whether it is current. The command line, the README's table and the app are made from it.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from workbench.errors import UnknownNameError

FILE = Path(__file__).with_name("catalogue.json")
SECTIONS = {"defences": "defence", "attacks": "attack", "probes": "probe", "figures": "figure"}
"""What the sections hold, section to kind."""
USUAL_PROBES = ("vocabulary", "drift")
"""What a study that names no probes looks at: cheap beside the questions it asks."""
PAPER = re.compile(
    r"(?P<authors>[^\n]+?), (?:[“\"](?P<title>[^”\"]+?),?[”\"],? )?(?P<venue>[^,\"”]+? \d{4}), "
    r"arXiv:(?P<arxiv>\d{4}\.\d{4,5})"
)


def load() -> dict[str, Any]:
    """The catalogue: `defences`, `attacks`, `probes` and `figures`, each a list of entries."""
    return json.loads(FILE.read_text())


def citation(entry: Mapping[str, Any]) -> str:
    """An entry's paper in one line; empty when it cites none."""
    paper = entry["paper"]
    arxiv = paper["arxiv"] and f"arXiv:{paper['arxiv']}"
    return ", ".join(filter(None, [paper["authors"], paper["title"], paper["venue"], arxiv]))


def entry(section: str, name: str) -> dict[str, Any]:
    """One entry of the catalogue. A name may be written with `-` or with `_`.

    Raises:
        UnknownNameError: there is no such entry; the message suggests the nearest.
    """
    known = {item["name"]: item for item in load()[section]}
    for spelt, found in known.items():
        if spelt.replace("_", "-") == name.replace("_", "-"):
            return found
    raise UnknownNameError(SECTIONS[section], name, known)


def generate() -> dict[str, Any]:
    """The catalogue, made anew from the registries. Imports torch."""
    from workbench.attacks import ATTACKS
    from workbench.defences import DEFENCES
    from workbench.figures import FIGURES
    from workbench.probes import PROBES

    return {
        "defences": [_method(name, "defence", kind) for name, kind in DEFENCES.items()],
        "attacks": [_method(name, "attack", kind) for name, kind in ATTACKS.items()],
        "probes": [_probe(name, kind) for name, kind in PROBES.items()],
        "figures": [_figure(figure) for figure in FIGURES.values()],
    }


def _method(name: str, stage: str, kind: type) -> dict[str, Any]:
    """Entry of a dataclass of settings: a defence, an attack or a probe."""
    return {
        "name": name,
        "family": getattr(kind, "family", stage),
        "stage": stage,
        "paper": paper(inspect.getmodule(kind)),
        "summary": _first_line(kind),
        "class": f"{kind.__module__}.{kind.__qualname__}",
        **{
            word: _plain(getattr(kind, word))
            for word in ("start", "streams")
            if hasattr(kind, word)
        },
        "fields": settings(kind),
        "rows": [],
    }


def _probe(name: str, kind: Any) -> dict[str, Any]:
    """Entry of a probe: a method that writes rows, and may need a checkpoint to compare with."""
    rows = [row.kind for row in kind.writes]
    return _method(name, "probe", kind) | {"reference": kind.needs_reference, "rows": rows}


def _figure(figure: Any) -> dict[str, Any]:
    return {
        "name": figure.name,
        "family": figure.page,
        "stage": "figure",
        "paper": cited(figure.help),
        "summary": figure.title,
        "fields": settings(figure.params),
        "rows": [row.kind for row in figure.needs],
    }


def paper(module: Any) -> dict[str, str | None]:
    """The paper that a module's docstring cites first."""
    return cited(inspect.getdoc(module) or "")


def cited(text: str) -> dict[str, str | None]:
    """Authors, title, venue and arXiv id of the first citation that begins a paragraph.

    The form is `Authors, "Title", Venue year, arXiv:0000.00000`; the title may be left out.
    """
    found = next((m for p in text.split("\n\n") if (m := PAPER.match(_line(p)))), None)
    return found.groupdict() if found else dict.fromkeys(("authors", "title", "venue", "arxiv"))


def _line(paragraph: str) -> str:
    return " ".join(paragraph.split()).removeprefix("Source: ")


def settings(kind: type) -> list[dict[str, Any]]:
    """The fields of a dataclass: name, type, default, and the string that stands under each."""
    hints, docs, made = get_type_hints(kind), field_docs(kind), _default_instance(kind)
    return [
        _field(f.name, hints[f.name], getattr(made, f.name, MISSING), docs.get(f.name, ""))
        for f in fields(kind)
        if f.init
    ]


def _field(name: str, annotation: Any, default: Any, doc: str) -> dict[str, Any]:
    item: dict[str, Any] = {"name": name, "type": type_text(annotation), "doc": doc}
    if isinstance(annotation, type) and is_dataclass(annotation):
        defaults = {f.name: getattr(default, f.name, MISSING) for f in fields(annotation)}
        inner = settings(annotation)
        for part in inner:
            _default(part, defaults[part["name"]])
        return item | {"fields": inner}
    return _default(item, default)


def _default(item: dict[str, Any], value: Any) -> dict[str, Any]:
    if value is not MISSING and value is not inspect.Parameter.empty and "fields" not in item:
        item["default"] = _plain(value)
    return item


def _default_instance(kind: type) -> Any:
    """The class with all defaults, or None when some field must be given."""
    needed = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    return None if needed else kind()


def field_docs(kind: type) -> dict[str, str]:
    """The string under each field, looked up in the class and then in its bases."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        above.target.id: " ".join(inspect.cleandoc(below.value.value).split())
        for above, below in pairwise(body)
        if isinstance(above, ast.AnnAssign)
        and isinstance(above.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def type_text(annotation: Any) -> str:
    """A type as it is written in source, e.g. `tuple[int, ...] | None`; `parse_type` reads it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "None"
    if annotation is ...:
        return "..."
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inside))}]"
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, inside))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_text, inside))}]"
    return annotation.__name__


def parse_type(text: str) -> Any:
    """The type that a text of the catalogue stands for. Only plain values: nothing is executed."""
    return _type(ast.parse(text, mode="eval").body)


def _type(node: ast.expr) -> Any:
    names: Mapping[str, Any] = {t.__name__: t for t in (int, float, str, bool, tuple, list, dict)}
    match node:
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Constant(value=value) if value is None or value is ...:
            return value
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007  (made while running)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            return Literal[ast.literal_eval(inside)]
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in names:
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return names[name][tuple(map(_type, parts))]
    raise ValueError(f"{ast.unparse(node)} is not a type that the catalogue can hold")


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _plain(value: Any) -> Any:
    """A default as JSON holds it."""
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    """Write the catalogue beside this module."""
    FILE.write_text(json.dumps(generate(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
