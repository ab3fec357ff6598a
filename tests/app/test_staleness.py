"""Which runs the dashboard marks as made by other code."""

from dataclasses import replace

import pytest

from app.staleness import GONE, other_code
from tests.figures.stores import header
from workbench import provenance


def made_by(*modules, code):
    run = header("vaccine-s0", "immunise", "vaccine", 0, {"name": "vaccine"})
    return replace(run, modules=list(modules), hashes={"code": code})


def test_the_code_that_is_installed_is_not_other_code():
    code = provenance.code_hash("workbench.pillars")
    assert other_code(made_by("workbench.pillars", code=code)) is None


@pytest.mark.parametrize("code", ["0123456789abcdef", ""])
def test_another_hash_is_other_code_if_it_is_known(code):
    found = other_code(made_by("workbench.pillars", code=code))
    now = provenance.code_hash("workbench.pillars")[:8]
    assert found == (("01234567", now) if code else None)


def test_of_runs_that_do_not_name_their_modules_nobody_knows():
    assert other_code(made_by(code="0123456789abcdef")) is None


@pytest.mark.parametrize("name", ["workbench.never_was", "", "os", "workbench.../secret"])
def test_a_module_that_is_gone_is_other_code(name):
    assert other_code(made_by(name, code="0123456789abcdef")) == ("01234567", GONE)


def test_a_run_made_now_is_of_the_installed_code():
    pytest.importorskip("torch")
    from tests import small
    from workbench.study import Unit

    study = small.study()
    for arm in study.arms():
        for attack in (None, "sft"):
            made = Unit(study, arm, 0, attack).header("start", "data")
            assert other_code(made) is None and made.hashes["code"]
