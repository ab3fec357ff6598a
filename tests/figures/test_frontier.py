"""The frontier: what is compared with what, over bases and seeds, and how it is drawn."""

import numpy as np
import pytest

from tests.figures.stores import ARMS, OFTEN, attacked, header, metric, store, tried, write
from workbench.figures import FIGURES, load
from workbench.figures._arms import base_of
from workbench.figures.frontier import HELD
from workbench.rows import Metric

FRONTIER = FIGURES["frontier"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return load(tried(tmp_path_factory.mktemp("tried")), None, FRONTIER.needs)


def table_of(frames, **params):
    return FRONTIER.data(frames, FRONTIER.given(params))


def pooled(frames, **params):
    table = table_of(frames, **params)
    return table[table["seed"].isna()].set_index("arm")


def trace(drawn, name):
    return next(trace for trace in drawn.data if trace.name == name)


def test_bases_are_replicates_and_intensities_are_arms(frames):
    table = table_of(frames)
    assert set(table["arm"]) == {
        "undefended", "vaccine rho=1.0", "vaccine rho=2.0", "vaccine rho=10.0", "vaccine-control",
        "rep_noise", "rep_noise-control", "tar",
    }  # fmt: skip
    single = table[table["seed"].notna()]
    assert (single.groupby("arm").size() == 6).all() and set(single["base"]) == {"", "base=1"}


def test_capability_is_compared_with_the_control_of_the_same_base_and_seed(frames):
    found = pooled(frames)
    # Bases differ by 0.1 and seeds drift together: only pairs give the change that was put in.
    assert found.loc["vaccine rho=2.0", "change"] == pytest.approx(-0.012 + 0.004)
    assert found.loc["vaccine rho=2.0", "reference"] == "vaccine-control"
    assert found.loc["rep_noise", "change"] == pytest.approx(-0.03 + 0.006 - 0.002)
    assert (found.loc[["undefended", "vaccine-control"], "change"] == 0).all()


def test_without_a_control_the_undefended_arm_stands_in_and_the_caption_says_so(frames):
    found = pooled(frames)
    assert found.loc["tar", "reference"] == "undefended"
    assert found.loc["tar", "change"] == pytest.approx(-0.09 - 0.002)
    caption = FRONTIER.draw(frames).layout.meta["caption"]
    assert caption.startswith("3 seeds · 2 bases · attack sft")
    assert "without a control, against the undefended arm: tar" in caption
    assert "vaccine" not in caption


def test_intensities_are_joined_in_their_own_order(frames):
    drawn = FRONTIER.draw(frames)
    line = trace(drawn, "vaccine")
    assert line.text == ("rho=1", "rho=2", "rho=10")  # as text, 10 would come second
    assert line.x == pytest.approx((0, -0.008, -0.048)) and "lines" in line.mode
    assert list(line.y) == sorted(line.y)
    assert trace(drawn, "rep_noise").text == ("",)


def test_the_break_is_a_median_with_the_bounds_of_the_evaluations(frames):
    row = pooled(frames).loc["vaccine rho=2.0"]
    breaks = [18 * np.sqrt(1 + s) for s in range(3)] + [22 * np.sqrt(1 + s) for s in range(3)]
    steps = np.array(OFTEN)
    first = [steps[steps >= b].min() for b in breaks]
    last = [steps[steps < b].max() for b in breaks]
    assert row["break_step"] == np.median(first) and row["safe_until"] == np.median(last)
    drawn = trace(FRONTIER.draw(frames), "vaccine")
    assert drawn.y[1] - drawn.error_y.arrayminus[1] == row["safe_until"]
    assert drawn.error_y.array[1] == 0


def test_what_held_is_an_open_triangle_at_the_budget(frames):
    drawn = FRONTIER.draw(frames)
    tar = trace(drawn, "tar")
    assert tar.marker.symbol == (HELD,) and tar.y == (96,)
    assert trace(drawn, "did not break").marker.symbol == HELD
    assert HELD not in trace(drawn, "vaccine").marker.symbol
    everything = FRONTIER.draw(frames, {"phi": 1.0})
    assert set(trace(everything, "vaccine").marker.symbol) == {HELD}


def test_the_undefended_band_lies_between_its_bounds(frames):
    drawn = FRONTIER.draw(frames)
    row = pooled(frames).loc["undefended"]
    band = next(shape for shape in drawn.layout.shapes if shape.y0 == row["safe_until"])
    assert band.y1 == row["break_step"]
    assert "undefended: " in drawn.layout.annotations[0].text


def test_controls_can_be_left_out(frames):
    names = {trace.name for trace in FRONTIER.draw(frames, {"controls": False}).data}
    assert "vaccine-control" not in names and "vaccine" in names


def test_of_several_attacks_the_usual_one_is_shown(tmp_path):
    made = tried(tmp_path, (0,), (0,))
    run = header("tar.lora", "attack", "tar", 0, {"name": "tar", "inner": 64},
                 attack={"name": "a_rare_one"}, model="lab:base")  # fmt: skip
    write(made, run, attacked(4, 0, 2), (Metric,))
    frames = load(made, None, FRONTIER.needs)
    assert set(table_of(frames)["attack"]) == {"sft"}
    rare = table_of(frames, attack="a_rare_one")
    assert set(rare["arm"]) == {"tar"} and set(rare["break_step"]) == {4}
    assert rare["change"].notna().all()  # its reference was measured, if not attacked so


def test_the_nearest_of_several_controls_is_taken(tmp_path):
    made = store(tmp_path, {"undefended": 8}, (0,))
    for lr, g in ((1e-3, 0.8), (1e-4, 0.9)):
        for arm, rho, change in (("vaccine", 2.0, -0.01), ("vaccine-control", 0.0, 0.0)):
            defence = {"name": "vaccine", "rho": rho, "fit": {"lr": lr}}
            run = header(f"{arm}-{lr}.sft", "attack", arm, 0, defence)
            rows = attacked(16, 0, 2)
            rows = [r for r in rows if not isinstance(r, Metric) or r.name != "capability"]
            rows += [metric("attack", s, "capability", "all", g + change) for s in (0, 4, 8, 16)]
            write(made, run, rows, (Metric,))
    found = pooled(load(made, None, FRONTIER.needs))
    assert found.loc["vaccine lr=0.001", "reference"] == "vaccine-control lr=0.001"
    assert found.loc["vaccine lr=0.0001", "change"] == pytest.approx(-0.01)


def test_arms_on_other_data_are_no_reference(tmp_path):
    made = store(tmp_path, {"undefended": 8}, (0,))
    run = header("tar-s0.sft", "attack", "tar", 0, {"name": "tar"}, hashes={"data": "other"})
    write(made, run, attacked(8, 0, 2), (Metric,))
    caption = FRONTIER.draw(load(made, None, FRONTIER.needs)).layout.meta["caption"]
    assert "not shown, nothing to compare with: tar data=other" in caption


def test_a_lone_defence_has_nothing_to_be_compared_with(tmp_path):
    lone = load(store(tmp_path, {"tar": ARMS["tar"]}, (0,)), None, FRONTIER.needs)
    assert FRONTIER.missing(lone) is not None and FRONTIER.draw(lone).layout.meta["empty"]


def test_broken_before_the_attack_began(tmp_path):
    made = store(tmp_path, {"undefended": 8}, (0,))
    run = header("tar-s0.sft", "attack", "tar", 0, {"name": "tar"})
    write(made, run, attacked(0, 0, 2), (Metric,))
    row = pooled(load(made, None, FRONTIER.needs)).loc["tar"]
    assert (row["safe_until"], row["break_step"]) == (0, 0)


@pytest.mark.parametrize(
    ("model", "base"),
    [("lab:base", ""), ("lab:aligned,seed=2", ""), ("lab:base,base=1", "base=1"),
     ("lab:aligned,world=3,base=1,seed=2", "world=3,base=1"), ("org/Model-1", "org/Model-1")],
)  # fmt: skip
def test_a_base_is_what_a_model_was_before_it_was_aligned(model, base):
    assert base_of(model) == base
