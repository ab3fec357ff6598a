"""The catalogue says what the registries say, and can be read without them."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar, Literal, Optional

import pytest

from workbench import catalogue
from workbench.errors import UnknownNameError
from workbench.rows import Metric


@pytest.fixture(scope="module")
def made():
    return catalogue.generate()


def test_the_file_is_current(made):
    assert catalogue.load() == json.loads(json.dumps(made)), (
        "catalogue.json is out of date: run `python -m workbench.catalogue`"
    )


@pytest.mark.parametrize("section", ["defences", "attacks", "probes"])
def test_every_entry_is_complete(made, section):
    for entry in made[section]:
        for key in ("name", "family", "stage", "summary", "class", "fields", "rows"):
            assert key in entry, (entry["name"], key)
        assert entry["summary"].endswith("."), entry["name"]
        paper = entry["paper"]
        assert paper["authors"] and paper["venue"] and paper["arxiv"], (
            f"{entry['name']}: its module's docstring cites no paper as "
            "'Authors, \"Title\", Venue year, arXiv:0000.00000'"
        )


def leaves(fields):
    for item in fields:
        yield from leaves(item["fields"]) if "fields" in item else [item]


@pytest.mark.parametrize("section", ["defences", "attacks", "probes"])
def test_every_setting_says_what_it_is(made, section):
    for entry in made[section]:
        for item in leaves(entry["fields"]):
            assert item["doc"], f"{entry['name']}.{item['name']} has no text under it"


def test_every_type_can_be_read_back(made):
    for section in ("defences", "attacks", "probes"):
        for entry in made[section]:
            for item in leaves(entry["fields"]):
                text = item["type"]
                assert catalogue.type_text(catalogue.parse_type(text)) == text


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"no defence called 'vacine'\. Did you mean"):
        catalogue.entry("defences", "vacine")


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner settings."""

    lr: float = 0.1
    """How fast."""
    rounds: int = 3
    """How often."""


@dataclass(frozen=True, kw_only=True)
class Base:
    family: ClassVar[str] = "toy"
    size: int
    """From the base."""
    inner: Inner = field(default_factory=lambda: Inner(rounds=9))
    """Nested."""


@dataclass(frozen=True, kw_only=True)
class Toy(Base):
    """A toy."""

    size: int = 4
    mode: Literal["a", "b"] | None = None
    """One of two,
    or none."""
    layers: tuple[int, ...] = (1, 2)


def test_settings_of_a_class():
    by_name = {item["name"]: item for item in catalogue.settings(Toy)}
    assert by_name["size"] == {"name": "size", "type": "int", "doc": "From the base.", "default": 4}
    assert by_name["mode"]["type"] == "Literal['a', 'b'] | None"
    assert by_name["mode"]["doc"] == "One of two, or none."
    assert by_name["layers"]["default"] == [1, 2] and by_name["layers"]["doc"] == ""
    assert [i["default"] for i in by_name["inner"]["fields"]] == [0.1, 9]


def test_a_setting_without_a_default_must_be_given():
    by_name = {item["name"]: item for item in catalogue.settings(Base)}
    assert "default" not in by_name["size"]


KINDS = [int, float, str, bool, tuple[int, ...], tuple[str, float], Literal["a", 2], list[str]]


@pytest.mark.parametrize("kind", [*KINDS, Optional[int], float | int | None, dict[str, int]])  # noqa: UP045
def test_types_survive_being_written(kind):
    assert catalogue.parse_type(catalogue.type_text(kind)) == kind


@pytest.mark.parametrize("text", ["__import__('os')", "os.system", "int()", "Path", "[int]"])
def test_only_plain_types_are_read(text):
    with pytest.raises(ValueError, match="not a type that the catalogue can hold"):
        catalogue.parse_type(text)


@pytest.mark.parametrize(
    ("doc", "found"),
    [
        (
            "Vaccine: x.\n\nHuang, Hu & Liu, NeurIPS 2024, arXiv:2402.01109.\n\nMore.",
            ("Huang, Hu & Liu", None, "NeurIPS 2024", "2402.01109"),
        ),
        (
            'KL: y.\n\nQi et al., "A title, with\na comma", ICLR 2025,\narXiv:2406.05946: more.',
            ("Qi et al.", "A title, with a comma", "ICLR 2025", "2406.05946"),
        ),
        (
            "X.\n\nRosati & Wehner, EMNLP Findings 2024, arXiv:2402.16382, eq. 1.",
            ("Rosati & Wehner", None, "EMNLP Findings 2024", "2402.16382"),
        ),
        ("Ours.\n\nNo paper.", (None, None, None, None)),
        (None, (None, None, None, None)),
    ],
)
def test_papers_are_read_from_the_docstring(doc, found):
    module = type("M", (), {"__doc__": doc})
    keys = ("authors", "title", "venue", "arxiv")
    assert catalogue.paper(module) == dict(zip(keys, found, strict=True))


def test_figures_are_entries_too(monkeypatch):
    figure = SimpleNamespace(
        name="toy", title="What?", page="drift", params=Toy, needs=(Metric,), help="A & B, C 2024."
    )
    monkeypatch.setattr("workbench.figures.FIGURES", {"toy": figure})
    (entry,) = catalogue.generate()["figures"]
    assert (entry["name"], entry["family"], entry["summary"]) == ("toy", "drift", "What?")
    assert entry["rows"] == ["metrics"] and len(entry["fields"]) == 4
    assert catalogue.citation(entry) == ""


def test_citations_leave_out_what_is_not_known():
    known = {"authors": "A & B", "title": None, "venue": "C 2024", "arxiv": "2401.00001"}
    assert catalogue.citation({"paper": known}) == "A & B, C 2024, arXiv:2401.00001"
