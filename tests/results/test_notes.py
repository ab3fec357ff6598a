"""What the document says beside its tables: how methods were set up, what a picture is of."""

from dataclasses import replace

import pytest

from workbench.headers import RunHeader
from workbench.results.markdown import counted
from workbench.results.methods import methods
from workbench.results.notes import PAPERS, remarks, spent
from workbench.results.pictures import caption


def run(arm, seed, attack="sft"):
    return RunHeader(id=f"{arm}-{seed}", kind="attack", arm=arm, seed=seed, attack={"name": attack})


def test_trials_are_counted_with_those_of_the_grid_that_was_replaced():
    said = spent(methods())
    for part in ("vaccine 6", "random_vaccine 6", "t_vaccine 10", "circuit_breakers 12"):
        assert part in said
    assert "rep_noise 12" in said and "tuned longer" in said
    assert "longer" not in spent({"vaccine": methods()["vaccine"]})


def test_what_is_said_of_the_papers_loops_is_so():
    tried = methods()
    for name in ("vaccine", "random_vaccine", "t_vaccine"):
        fit, rank = tried[name].paper.fit, tried[name].paper.lora_rank
        assert (fit.steps, fit.batch_size, fit.lr, fit.weight_decay, rank) == (300, 32, 3e-4, 0, 0)
    assert "300 steps of 32, lr 0.0003, without weight decay" in PAPERS
    breakers, noise = tried["circuit_breakers"].paper, tried["rep_noise"].paper
    assert (breakers.lora_rank, breakers.fit.steps, breakers.fit.lr) == (16, 150, 1e-4)
    assert (noise.fit.optimiser, noise.fit.batch_size, noise.fit.lr) == ("adam", 8, 2e-5)
    assert noise.fit.steps == 120 and "120 steps instead of 1250" in PAPERS


def test_a_baseline_with_the_least_noise_and_layers_that_are_not_few_are_remarked_on():
    tried = methods()
    least, more = tried["random_vaccine"].trials[-1], tried["random_vaccine"].trials[0]
    many = tried["t_vaccine"].trials[-1]
    found = remarks({"random_vaccine": least, "t_vaccine": many}, tried)
    assert "variance 0.001" in found["random_vaccine"] and "5 blocks of 6" in found["t_vaccine"]
    few = [replace(many, active=3), tried["t_vaccine"].paper]
    for targeted in few:
        assert remarks({"random_vaccine": more, "t_vaccine": targeted}, tried) == {}


@pytest.mark.parametrize(
    ("figure", "seeds", "expected"),
    [("attack_budget", 3, "3 seeds an arm. Line: median over seeds; band"),
     ("attack_budget", 1, "1 seed an arm. Too few for bands"),
     ("frontier", 1, "1 seed an arm. No bands; a whisker"),
     ("prefill", 3, "3 seeds an arm. Thick line: mean")],
)  # fmt: skip
def test_a_picture_names_its_bases_seeds_and_bands(figure, seeds, expected):
    shown = [run(arm, seed) for arm in ("a", "b") for seed in range(seeds)]
    shown += [run("a", 9, attack="another")]
    said = caption(["lab:aligned"], shown, figure, "sft")
    assert said.startswith(f"Of `lab:aligned` alone, {expected}")


@pytest.mark.parametrize(
    ("counts", "text"), [((1,), "1 seed"), ((3, 3), "3 seeds"), ((1, 3), "1 to 3 seeds")]
)
def test_counts_are_said_with_their_noun(counts, text):
    assert counted("seed", *counts) == text
