"""Arms, starts and hashes of a study."""

import json
from dataclasses import asdict, replace

import pytest

from tests import small, tiny
from workbench import study as studies
from workbench.chat_templates import PLAIN
from workbench.defences import Vaccine
from workbench.errors import InvalidValueError, ModelError, UnknownNameError, WorkbenchError
from workbench.lab.tokenizer import CHAT_TEMPLATE
from workbench.models import save
from workbench.store import Store
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


def test_a_header_holds_the_template_that_texts_were_put_in(tmp_path):
    """And the id follows it: the same weights under another template give other numbers."""
    assert header(small.study()).template == CHAT_TEMPLATE
    assert header(small.study(), attack="sft").template == CHAT_TEMPLATE
    found = []
    for name, template in (("one", tiny.CHAT_TEMPLATE), ("two", "{{ messages[0].content }}")):
        save(tiny.llama(0), tiny.tokenizer(template), tmp_path / name)
        found.append(header(small.study(model=str(tmp_path / name)), arm=0))
        assert found[-1].template == template
    (tmp_path / "one").rename(tmp_path / "gone")
    (tmp_path / "two").rename(tmp_path / "one")  # the same name, the same weights
    found.append(header(small.study(model=str(tmp_path / "one")), arm=0))
    assert found[2].model == found[0].model
    assert len({run.id for run in found}) == 3
    for what in ("tokenizer", "config"):
        assert found[2].hashes[what] != found[0].hashes[what]


def test_a_study_may_bring_its_own_template(tmp_path):
    own, given = header(small.study()), header(small.study(template="plain"))
    assert given.template == PLAIN and given.id != own.id
    assert given.hashes["config"] != own.hashes["config"]
    assert header(small.study(template=CHAT_TEMPLATE)) == own  # what counts is what is read
    save(tiny.llama(0), tiny.tokenizer(None), tmp_path / "mute")
    mute = {"model": str(tmp_path / "mute")}
    with pytest.raises(ModelError, match="no chat template"):
        header(small.study(**mute))
    assert header(small.study(**mute, template="plain")).template == PLAIN
    with pytest.raises(UnknownNameError, match="plain"):
        header(small.study(template="plane"))


def test_headers_without_a_template_are_still_read(tmp_path):
    made = header(small.study())
    first = {k: v for k, v in asdict(made).items() if k != "template"} | {"schema": 1}
    (tmp_path / made.id).mkdir()
    (tmp_path / made.id / "run.json").write_text(json.dumps(first | {"state": "finished"}))
    (found,) = Store(tmp_path).runs()
    assert (found.state, found.template, found.schema) == ("finished", None, 1)


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


@pytest.mark.parametrize("kind", ["defences", "attacks", "probes"])
@pytest.mark.parametrize("given", [{"mine": "name"}, {"mine": Vaccine}, ["name"], "name"])
def test_methods_are_given_with_their_settings(kind, given):
    singular = {"defences": "defence", "attacks": "attack", "probes": "probe"}[kind]
    study = Study()
    object.__setattr__(study, kind, given)  # past the type checker that tests run under
    with pytest.raises(InvalidValueError, match=rf"{kind} must be a mapping .*study.{singular}"):
        study.__post_init__()
