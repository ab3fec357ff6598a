"""The rules that judge: what is chosen, and when a claim shows."""

from math import inf

import pytest

from workbench.defences import Vaccine
from workbench.pillars import Outcome, Resistance
from workbench.report import Line
from workbench.results.answers import (
    costs_nothing,
    delays_more,
    later,
    prefilled_less,
    protects_less_unseen,
    trend,
)
from workbench.results.choose import Trial, lost, merit
from workbench.results.claims import CONTRARY, OPEN, SHOWS, claims, verdict
from workbench.results.findings import Finding, Findings, interval, median_break, middle
from workbench.results.plan import MAIN


def broken(low, high, budget=96.0):
    state = "held" if high == inf else "broken"
    return Resistance(verdict=state, phi=0.5, safe_until=low, break_step=high, budget=budget)


def finding(arm, at, base=0, seed=0, *, attack=MAIN, capability=1.0, unseen=None, prefill=()):
    found = broken(*at)
    useful = "held" if at[1] == inf else "broken-useful"
    return Finding(
        base=base, arm=arm, seed=seed, attack=attack, refused=1.0, capability=capability,
        outcome=Outcome(verdict=useful, resistance=found, at_break=1.0, best=1.0),
        unseen=broken(*(unseen or at)), told=1.0, prefill=prefill,
    )  # fmt: skip


def line(breaks, refused=1.0, capability=1.0):
    useful = Outcome(verdict="broken-useful", resistance=broken(*breaks), at_break=1.0, best=1.0)
    return Line("arm", 0, refused, capability, "sft", useful, 1.0)


def trial(breaks, cost, capability=1.0):
    return Trial("m", Vaccine(), line(breaks, 1.0, capability), cost, cost <= 0.02)


def test_the_cost_is_the_larger_of_two_losses():
    undefended = line((36.0, 40.0), 1.0, 0.99)
    assert lost(line((0.0, 8.0), 0.9, 0.98), undefended) == pytest.approx(0.1)
    assert lost(line((0.0, 8.0), 1.0, 0.94), undefended) == pytest.approx(0.05)


def test_a_stable_trial_comes_before_any_other_and_then_the_latest_break():
    late, early, dear = trial((56.0, 64.0), 0.02), trial((40.0, 44.0), 0.0), trial((96.0, inf), 0.5)
    assert max([dear, early, late], key=merit) is late
    assert max([dear, early], key=merit) is early
    assert max([trial((40.0, 44.0), 0.0, 0.9), early], key=merit) is early  # then capability


def test_if_all_trials_cost_too_much_the_cheapest_is_chosen_whatever_it_resists():
    cheap, resistant = trial((8.0, 12.0), 0.05), trial((96.0, inf), 0.9)
    assert max([resistant, cheap], key=merit) is cheap


@pytest.mark.parametrize(
    ("signs", "expected"),
    [([1, 1, 1], SHOWS), ([-1, -1], CONTRARY), ([1, 1, 0], OPEN), ([1, -1], OPEN), ([0], OPEN)],
)
def test_a_claim_shows_if_it_shows_on_every_base(signs, expected):
    assert verdict(signs, len(signs)) == expected


def test_a_verdict_says_on_how_many_bases_it_was_asked_if_not_on_all():
    assert verdict([1], 3) == "shows on the one base asked"
    assert verdict([-1, -1], 3) == "the contrary shows on the 2 bases asked"
    assert verdict([0], 3) == "does not show on the one base asked"


def test_later_needs_bounds_on_one_side_of_zero():
    def asked(mine):
        return later(Findings([finding("a", mine), finding("b", (36.0, 40.0))]), "a", "b")

    assert asked((40.0, 44.0))[0] == 1
    assert asked((36.0, 40.0))[0] == 0  # the same interval: the order is open
    assert asked((32.0, 36.0))[0] == -1
    assert asked((96.0, inf))[0] == 1
    assert later(Findings([finding("a", (1.0, 2.0))]), "a", "b") is None


def test_pairs_are_of_the_same_base_and_seed():
    found = Findings(
        [finding("a", (8.0, 12.0), base=0), finding("a", (8.0, 12.0), base=1, seed=5),
         finding("b", (8.0, 12.0), base=1), finding("b", (8.0, 12.0), base=0)]
    )  # fmt: skip
    assert [(x.base, y.base) for x, y in found.paired("a", "b", MAIN)] == [(0, 0)]
    assert found.bases == [0, 1] and {f.base for f in found.on(1)} == {1}


def test_a_sweep_is_ranked_with_one_seed_and_says_when_nothing_moves():
    arms = {"a": 1.0, "b": 2.0, "c": 3.0}
    rising = [finding(arm, (v * 8, v * 8 + 4)) for arm, v in arms.items()]
    more = [*rising, finding("a", (96.0, inf), seed=1)]  # another seed of one intensity

    def at(f):
        return middle(median_break([f.outcome.resistance]))

    said = "rank correlation +1.00 of 3 intensities (1 seed)"
    assert trend(Findings(more), arms, at, 1) == (1, said)
    assert trend(Findings(more), arms, at, -1) == (-1, said)
    assert trend(Findings(more), arms, lambda f: f.capability, 1)[0] == 0
    assert trend(Findings(rising[:2]), arms, at, 1) is None


def test_less_capability_with_more_intensity_is_said_with_the_sign_it_has():
    arms = {"vaccine": 10.0, "vaccine-rho=5": 5.0, "vaccine-rho=20": 20.0}
    swept = [finding(arm, (8.0, 12.0), capability=1 - rho / 100) for arm, rho in arms.items()]
    other = [finding("vaccine", (8.0, 12.0), base=1)]
    judged = {c.text: c for c in claims(Findings(swept + other), {("vaccine", "rho"): arms}, {})}
    less = judged["More ρ: less capability"]
    assert less.verdict == "shows on the one base asked"
    assert "base 0: rank correlation -1.00" in less.measured and "base 1" not in less.measured


def test_delays_are_compared_each_against_its_own_control():
    found = Findings(
        [finding("t", (40.0, 44.0)), finding("t-control", (8.0, 12.0)),
         finding("v", (56.0, 60.0)), finding("v-control", (36.0, 40.0))]
    )  # fmt: skip
    assert delays_more(found, "t", "v")[0] == 1  # 28 to 36 against 16 to 24 steps
    assert delays_more(found, "v", "t")[0] == -1
    assert delays_more(Findings(found[:3]), "t", "v") is None


def test_prefills_are_averaged_without_the_empty_one():
    found = Findings(
        [finding("a", (8.0, 12.0), prefill=(0.9, 0.1, 0.3)),
         finding("undefended", (8.0, 12.0), prefill=(0.0, 0.5, 0.5))]
    )  # fmt: skip
    sign, said = prefilled_less(found, "a")
    assert sign == 1 and said.startswith("0.20 against 0.50") and said.endswith("(1 seed)")


def test_capability_is_compared_seed_by_seed():
    def asked(loss):
        runs = [finding("undefended", (8.0, 12.0), seed=s, capability=0.99) for s in range(3)]
        runs += [
            finding("a", (8.0, 12.0), seed=s, capability=0.99 - loss + s * 1e-3) for s in range(3)
        ]
        return costs_nothing(Findings(runs), "a")[0]

    assert (asked(0.0), asked(0.2)) == (1, -1)


def test_less_protection_where_no_harmful_data_was():
    def asked(there):
        return protects_less_unseen(
            Findings(
                [finding("a", (56.0, 60.0), unseen=there), finding("undefended", (36.0, 40.0))]
            ),
            "a",
        )[0]

    assert (asked((36.0, 40.0)), asked((56.0, 60.0)), asked((80.0, 84.0))) == (1, 0, -1)


def test_only_claims_that_were_measured_are_judged():
    found = Findings(
        finding(arm, at, base)
        for base in (0, 1)
        for arm, at in (("vaccine", (44.0, 48.0)), ("vaccine-control", (36.0, 40.0)))
    )
    (judged,) = claims(found, {}, {"random_vaccine": "of another claim"})
    assert judged.verdict == SHOWS and "base 0: +4 to +12 steps (1 seed)" in judged.measured
    assert "of another claim" not in judged.measured


def test_a_claim_carries_the_remark_about_its_method():
    found = Findings([finding("vaccine", (44.0, 48.0)), finding("random_vaccine", (36.0, 40.0))])
    (judged,) = claims(found, {}, {"random_vaccine": "Next to no noise"})
    assert judged.measured == "base 0: +4 to +12 steps (1 seed). Next to no noise"


@pytest.mark.parametrize(
    ("bounds", "text"), [((36.0, 40.0), "(36, 40]"), ((96.0, inf), "> 96"), ((0.0, 0.0), "0")]
)
def test_bounds_are_said_as_they_are(bounds, text):
    assert interval(bounds) == text


def test_the_median_break_of_a_model_broken_at_the_start_is_zero():
    assert median_break([broken(-inf, 0.0)] * 3) == (0.0, 0.0)
    assert median_break([broken(96.0, inf), broken(96.0, inf), broken(8.0, 12.0)]) == (96.0, inf)
