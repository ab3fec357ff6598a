"""Arms, starts and hashes of a study."""

from dataclasses import replace

import pytest

from tests import small
from workbench import study as studies
from workbench.defences import Vaccine
from workbench.errors import InvalidValueError, UnknownNameError, WorkbenchError
from workbench.study import Arm, Study, Unit, open_domain


def test_arms_are_the_undefended_model_and_every_defence_with_its_control():
    names = [arm.name for arm in small.study().arms()]
    assert names == ["undefended", "vaccine", "vaccine-control"]
    assert [a.name for a in small.study(controls=False, undefended=False).arms()] == ["vaccine"]
    control = small.study().arms()[2].defence
    assert control == Vaccine(rho=0.0, fit=small.FIT)


def test_lab_alignments_are_seeded_like_the_arm():
    study = Study()
    undefended, vaccine = Arm("undefended", None), Arm("vaccine", Vaccine())
    assert study.start(undefended, 0) == "lab:aligned"
    assert study.start(undefended, 2) == "lab:aligned,seed=2"
    assert study.start(vaccine, 2) == "lab:base"
    assert study.reference() == "lab:base"


def test_a_named_checkpoint_is_taken_as_it_is():
    study = Study(model="lab:aligned,world=1,base=1,seed=4")
    assert study.start(Arm("undefended", None), 0) == "lab:aligned,world=1,base=1,seed=4"
    assert study.start(Arm("vaccine", Vaccine()), 0) == "lab:base,world=1,base=1"
    assert study.domain().world.seed == 1
    assert Study(model="some/model").start(Arm("vaccine", Vaccine()), 3) == "some/model"
    assert Study(model="some/model").reference() is None


def header(study, arm=1, seed=0, attack=None, start="s", data="d"):
    return Unit(study, study.arms()[arm], seed, attack).header(start, data)


def test_a_runs_id_depends_on_everything_that_decides_its_numbers():
    study = small.study()
    plain = header(study).id
    assert header(study).id == plain
    changes = {
        "seed": header(study, seed=1),
        "start": header(study, start="other weights"),
        "data": header(study, data="other data"),
        "rho": header(small.study(defences={"vaccine": Vaccine(rho=1.5, fit=small.FIT)})),
        "measures": header(small.study(measures=replace(small.MEASURES, panel=3))),
        "attack": header(study, attack="sft"),
        "control": header(study, arm=2),
    }
    ids = [h.id for h in changes.values()]
    assert plain not in ids and len(set(ids)) == len(ids)


def test_a_runs_id_depends_on_its_own_code_alone(monkeypatch):
    study = small.study()
    before = header(study).id
    hashes = {}
    monkeypatch.setattr(studies, "code_of", lambda *modules: hashes.setdefault(modules, "changed"))
    assert header(study).id != before
    (modules,) = hashes
    assert "workbench.defences.vaccine" in modules and "workbench.runs" in modules
    assert not any("attacks" in m for m in modules)


def test_an_attack_depends_on_the_run_it_attacks():
    study = small.study()
    attack = header(study, attack="sft")
    assert attack.parents == [header(study).id]
    assert attack.kind == "attack" and attack.attack["lr"] == small.ATTACK.lr
    assert header(study, attack="sft", start="other").id != attack.id


@pytest.mark.parametrize("seeds", [(), (0, 0), (-1,)])
def test_seeds_are_different_numbers(seeds):
    with pytest.raises(InvalidValueError, match="seeds"):
        Study(seeds=seeds)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'vaccine'"):
        studies.defence("vacine")
    with pytest.raises(UnknownNameError, match="Known: sft"):
        studies.attack("sftt")
    with pytest.raises(WorkbenchError, match="no data folder"):
        open_domain("/nowhere/at/all")
