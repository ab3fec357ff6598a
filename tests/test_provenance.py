"""Hashes change with what a number depends on, and with nothing else."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from workbench import provenance
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.provenance import code_hash, config_hash, imported

FILES = {
    "__init__": "",
    "errors": "class E(Exception): ...",
    "data": "from workbench.errors import E\nSIZE = 1",
    "losses": "import workbench.data",
    "island": "X = 1",
    "late": "Y = 1",
    "typed": "Z = 1",
    "tools/__init__": "from workbench.tools.saw import cut\nfrom .nail import hit as strike\nN = 1",
    "tools/saw": "from . import steel\ndef cut(): return 1",
    "tools/nail": "def hit(): return 2",
    "tools/steel": "S = 1",
    "methods/__init__": (
        "from workbench.methods._base import Base\nfrom workbench.methods.a import A\n"
        "from workbench.methods.b import B\nALL = {'a': A, 'b': B}"
    ),
    "methods/_base": "from workbench.data import SIZE\nclass Base: ...",
    "methods/a": (
        '"""Method A."""\nfrom workbench.methods import Base\nfrom ..tools import cut\n'
        "import json\n"
        "class A(Base):\n    def run(self):\n        from workbench.late import Y\n        return Y"
    ),
    "methods/b": "from workbench.losses import *\nfrom workbench import typed\nclass B: ...",
    "registry": "from workbench.methods import ALL",
}
A = {"data", "errors", "late", "methods._base", "methods.a", "tools.saw", "tools.steel"}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "workbench" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(*modules, root):
    return {name.removeprefix("workbench.") for name in imported(*modules, root=root)}


def test_imports_are_followed_wherever_they_stand_and_through_packages(tree):
    assert names("workbench.methods.a", root=tree) == A


def test_star_imports_and_imports_of_modules_count(tree):
    found = names("workbench.methods.b", root=tree)
    assert found == {"methods.b", "losses", "data", "errors", "typed"}


def test_a_registry_counts_whole_when_it_is_what_is_used(tree):
    assert {"methods", "methods.a", "methods.b"} <= names("workbench.registry", root=tree)


def test_an_alias_of_a_package_leads_to_its_module(tree):
    (tree / "workbench" / "user.py").write_text("from workbench.tools import strike")
    assert names("workbench.user", root=tree) == {"user", "tools.nail"}


@pytest.mark.parametrize("changed", sorted(FILES))
def test_the_hash_changes_with_what_is_imported_and_with_nothing_else(tree, changed):
    before = code_hash("workbench.methods.a", root=tree)
    path = tree / "workbench" / f"{changed}.py"
    path.write_text(path.read_text() + "\nNEW = 3")
    after = code_hash("workbench.methods.a", root=tree)
    assert (after != before) == (changed.replace("/", ".") in A)


def test_comments_docstrings_and_layout_do_not_count(tree):
    before = code_hash("workbench.methods.a", root=tree)
    path = tree / "workbench" / "methods" / "a.py"
    path.write_text(path.read_text().replace("Method A", "Other") + "  # a remark\n\n")
    assert code_hash("workbench.methods.a", root=tree) == before
    path.write_text(path.read_text().replace("return Y", "return -Y"))
    assert code_hash("workbench.methods.a", root=tree) != before


def test_order_and_repetition_of_modules_do_not_count(tree):
    a, b = "workbench.methods.a", "workbench.methods.b"
    assert code_hash(a, b, root=tree) == code_hash(b, a, b, root=tree)


def test_an_unknown_module_is_named_with_a_suggestion(tree):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'workbench\.island'"):
        code_hash("workbench.iland", root=tree)


def test_finding_imports_of_the_real_package_imports_nothing():
    script = (
        "import sys; from workbench.provenance import code_hash;"
        "code_hash('workbench.training'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@dataclass(frozen=True)
class Fit:
    lr: float = 1e-3
    layers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Method:
    fit: Fit = Fit()
    note: str | None = None


@dataclass(frozen=True)
class Other:
    fit: Fit = Fit()
    note: str | None = None


def test_equal_configurations_have_equal_hashes():
    assert config_hash(Method()) == config_hash(Method(Fit(0.001, (1, 2))))
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": (2,), "a": 1.0})
    assert config_hash(Method()) == config_hash(Method(Fit(layers=[1, 2])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other", [Method(Fit(2e-3)), Method(Fit(layers=(2, 1))), Method(note="x"), Other(), {}, None]
)
def test_different_configurations_have_different_hashes(other):
    assert config_hash(other) != config_hash(Method())


def test_truth_is_not_a_number():
    assert config_hash([True]) != config_hash([1]) != config_hash(["1"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1}, object(), Method])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(InvalidValueError, match="cannot be part of a configuration"):
        config_hash({"deep": [value]})


def test_a_configuration_hashes_the_same_in_every_process():
    script = (
        "from workbench.provenance import config_hash; print(config_hash({'b': 1, 'a': [2.5]}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(provenance.ROOT), "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == config_hash({"a": [2.5], "b": 1})


def test_versions_are_full_for_the_record_and_major_for_the_hash(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "peft": "0.21.3", "numpy": "2.4.1"}

    def version(name):
        if name in versions:
            return versions[name]
        raise provenance.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.metadata, "version", version)
    full, majors = provenance.library_versions(), provenance.library_majors()
    assert full.items() >= versions.items() and "transformers" not in full
    assert majors.pop("python") == ".".join(map(str, sys.version_info[:2]))
    assert majors == {"torch": "2", "peft": "0.21", "numpy": "2"}
    assert json.dumps(full)


def git(*arguments, cwd):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True)


def test_git_state_tells_commit_and_changes(tmp_path, monkeypatch):
    file = tmp_path / "provenance.py"
    file.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(file))
    state = provenance.git_state.__wrapped__
    assert state() is None  # no repository
    git("init", "-q", cwd=tmp_path)
    assert state() is None  # not in it
    git("add", ".", cwd=tmp_path)
    git("commit", "-qm", "x", cwd=tmp_path)
    clean = state()
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    file.write_text("2")
    assert state() == clean | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert state() is None  # no git


def test_code_that_measures_does_not_hide_behind_the_lazy_facade():
    assert "workbench" not in imported("workbench.runs", "workbench.study", "workbench.execution")
