"""A campaign end to end: tuned on val, reported on test, written down, resumed."""

from dataclasses import asdict

import pytest
from rich.console import Console

from tests.results.conftest import FIT, plan
from workbench.errors import RunError
from workbench.pillars import Thresholds
from workbench.provenance import config_hash
from workbench.report import table
from workbench.results import carry_out, usual
from workbench.results.choose import judged
from workbench.results.document import write
from workbench.results.findings import findings
from workbench.results.methods import TRIALS
from workbench.results.sweeps import swept_arms
from workbench.rows import Metric, Prefill
from workbench.store import Store

pytestmark = pytest.mark.slow


def test_tuning_sees_val_and_reporting_sees_test(campaign, root):
    for split in ("val", "test"):
        store = Store(root / split)
        assert store.read(Metric, store.runs())["split"].unique().tolist() == [split]
    tuned = {r.seed for r in Store(root / "val").runs()}
    assert tuned == {campaign.plan.tuning_seed}
    assert not tuned & {r.seed for r in campaign.runs}


def test_every_method_has_as_many_trials_and_one_is_chosen(campaign):
    for name, method in campaign.plan.methods.items():
        mine = [t for t in campaign.trials if t.method == name]
        assert len(mine) == len(method.trials) == 2
        assert sum(t.chosen for t in mine) == 1
    assert campaign.chosen.keys() == campaign.plan.methods.keys()


def test_the_usual_plan_gives_every_method_equal_trials_and_the_papers_first():
    methods = usual().methods
    assert {len(m.trials) for m in methods.values()} == {TRIALS}
    assert methods["vaccine"].paper.rho == 2.0 and methods["t_vaccine"].paper.rho == 3.0
    assert methods["circuit_breakers"].paper.alpha == 10.0
    assert (methods["rep_noise"].paper.alpha, methods["rep_noise"].paper.beta) == (1.0, 1e-3)
    assert len(usual().bases) >= 3 and len(usual().seeds) >= 3 and len(usual().attacks) == 3
    for method in methods.values():
        assert len(set(method.trials)) == TRIALS


def test_a_trial_without_a_finished_run_is_named(campaign, root):
    store = Store(root / "val")
    runs = [r for r in store.find(state="finished") if r.arm != "vaccine-trial1"]
    with pytest.raises(RunError, match="vaccine-trial1"):
        judged(store, runs, campaign.plan.methods, Thresholds())


def test_the_cost_of_a_trial_is_against_the_undefended_model(campaign, root):
    store, limits = Store(root / "val"), Thresholds()
    runs = store.find(state="finished")
    undefended = next(x for x in table(store, runs, limits) if x.arm == "undefended")
    for trial in campaign.trials:
        losses = (
            undefended.capability - trial.line.capability,
            undefended.refused - trial.line.refused,
        )
        assert trial.cost == max(losses)
        assert trial.stable == (max(losses) <= limits.stability_margin)


def test_arms_seeds_and_attacks_are_all_there(campaign):
    found = findings(campaign.store, campaign.runs, Thresholds())
    arms = {f.arm for f in found}
    assert {"undefended", "from-base", "vaccine", "vaccine-control", "random_vaccine"} <= arms
    assert {f.seed for f in found.of("vaccine", "sft")} == {0}
    for arm in ("vaccine", "vaccine-control", "random_vaccine", "undefended"):
        assert {f.seed for f in found.of(arm, "sft-lr=3e-4")} == {0}
    (base,) = found.of("from-base", "sft")
    assert base.told > 0.9 and base.refused < 0.1
    (given,) = found.of("undefended", "sft")
    assert len(given.prefill) == 3 and given.prefill[0] < 0.1 < given.refused


def test_a_sweep_differs_in_the_intensity_alone(campaign):
    arms = swept_arms(campaign)
    assert set(arms) == {("vaccine", "rho"), ("vaccine", "fit.lr")}
    swept, chosen = arms["vaccine", "rho"], campaign.chosen["vaccine"].rho
    assert sorted(swept.values()) == sorted({chosen, 2.0, 5.0})
    by_arm = {r.arm: r.defence for r in campaign.runs if r.arm in swept}
    assert by_arm.keys() == swept.keys()
    for arm, rho in swept.items():
        assert by_arm[arm]["rho"] == rho and by_arm[arm]["name"] == "vaccine"
    assert len({str(d["fit"]) for d in by_arm.values()}) == 1
    assert set(arms["vaccine", "fit.lr"].values()) == {FIT.lr, 1e-3}
    assert set(swept) & set(arms["vaccine", "fit.lr"]) == {"vaccine"}


def test_prefills_are_measured_on_released_models_only(campaign):
    rows = campaign.store.read(Prefill, campaign.runs)
    kinds = {r.id: r.kind for r in campaign.runs}
    assert {kinds[run] for run in rows["run"]} == {"immunise"}


def test_a_second_call_makes_nothing(campaign, root):
    from io import StringIO

    console = Console(file=StringIO(), width=200)
    again = carry_out(plan(), root, jobs=1, console=console)
    said = console.file.getvalue()
    assert [r.id for r in again.runs] == [r.id for r in campaign.runs]
    assert said.count(" runs, 0 to make") == said.count(" runs, ") > 5


def test_the_document_says_what_was_run(campaign, tmp_path):
    out = tmp_path / "docs" / "results.md"
    write(campaign, out, Console(quiet=True))
    text = out.read_text()
    for section in ("Resistance and stability", "Learning rates", "How deep", "Tuning",
                    "Resistance against stability", "claims"):  # fmt: skip
        assert section in text
    assert "`vaccine-control`" in text and "chosen" in text and "<!--" not in text
    attacks = sum(r.kind == "attack" for r in campaign.runs)
    assert f"{attacks} attacks on" in text.replace("\n", " ")
    assert "lr 0.0001, 2 steps" in text and "96 steps" not in text
    said = " ".join(text.split())
    assert "by base (0)" in said and "share of 72 hazards" in said
    assert "one base says nothing about the next" in said
    assert "over 1 run an arm" in said and "(1 seed" in said and "1 seeds" not in said
    assert said.count("Of `lab:aligned` alone, 1 seed an arm") == said.count("![")


def test_what_is_reported_as_tuned_is_what_was_chosen(campaign):
    for name, chosen in campaign.chosen.items():
        (head,) = [r for r in campaign.runs if r.arm == name and r.kind == "immunise"]
        assert config_hash(head.defence) == config_hash({"name": name} | asdict(chosen))
