"""The drift map and its neighbours: what they choose, and what they say about it."""

import json
from dataclasses import replace

import pytest

from tests.figures.invented import states
from tests.figures.stores import STEPS, header, store, write
from workbench.figures import DARK, FIGURES, LIGHT, load, paper, run_figure
from workbench.rows import DriftMapPoint, MapQuality

MAP = FIGURES["drift_map"]
KINDS = (DriftMapPoint, MapQuality)


def test_the_map_is_of_one_seed_and_says_so(frames):
    table = MAP.data(frames, MAP.given({"seed": 2}))
    assert set(table["seed"]) == {2} and set(table["seeds"]) == {3}
    caption = MAP.caption(table, MAP.given({"seed": 2}))
    assert "3 seeds · map of seed 2 · t-SNE (perplexity 5)" in caption
    assert "16 prompts" in caption and "attack step 64" in caption


def test_quality_stands_under_every_map(frames):
    drawn = MAP.draw(frames)
    said = [axis.title.text for axis in drawn.select_xaxes()]
    assert len(said) == 4
    assert all(text.startswith("trust 0.8") and "kept 0.55 · drift 0." in text for text in said)


def test_arrows_lead_to_the_chosen_step(frames):
    table = MAP.data(frames, MAP.given({"step": 8}))
    assert set(table["step"]) == {0, 4, 8}
    start = table[table["step"] == 0]
    assert (start["x"] == start["x_then"]).all()
    assert not len(MAP.data(frames, MAP.given({"step": 7})))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_steps_play_on_screen(frames, theme):
    drawn = MAP.draw(frames, None, theme)
    assert [frame.name for frame in drawn.frames] == [str(step) for step in STEPS]
    for k, number in enumerate(drawn.frames[-1].traces):
        last, shown = drawn.frames[-1].data[k], drawn.data[number]
        assert (last.x, last.y, last.mode) == (shown.x, shown.y, shown.mode)


def test_paper_stands_still(frames):
    for theme in (paper("icml"), paper("neurips", "full")):
        drawn = MAP.draw(frames, None, theme)
        assert not drawn.frames and not drawn.layout.updatemenus
    assert not MAP.draw(frames, {"step": 0}).frames  # nothing to play


def test_t_sne_goes_before_pca_and_either_can_be_asked_for(tmp_path):
    made = store(tmp_path, {}, ())
    rows = [r for step in (0, 8) for r in states.rows("attack", step, 0, "vaccine")]
    rows = [r for r in rows if type(r) in KINDS]
    both = rows + [replace(r, method="pca") for r in rows]
    write(made, header("v.sft", "attack", "vaccine", 0, {"name": "vaccine"}), both, KINDS)
    found = load(made, None, KINDS)
    for asked, method in (("any", "tsne"), ("tsne", "tsne"), ("pca", "pca")):
        assert set(MAP.data(found, MAP.given({"method": asked}))["method"]) == {method}


def test_of_many_prompts_a_sample_is_drawn_and_the_caption_says_so(tmp_path):
    made = store(tmp_path, {}, ())
    few = [r for step in (0, 8) for r in states.rows("attack", step, 0, "tar")]
    rows = [r for r in few if isinstance(r, MapQuality)]
    rows += [
        replace(r, example=f"{r.example}-{i}", x=r.x + i / 100)
        for r in few if isinstance(r, DriftMapPoint) for i in range(200)
    ]  # fmt: skip
    write(made, header("t.sft", "attack", "tar", 0, {"name": "tar"}), rows, KINDS)
    found = load(made, None, KINDS)
    table = MAP.data(found, MAP.given(None))
    by_step = table.groupby(["step", "group"])["example"].agg(set)
    assert by_step[0, "hazard"] == by_step[8, "hazard"] and len(by_step[0, "hazard"]) == 534
    assert "1068 of 3200 prompts drawn" in MAP.caption(table, MAP.given(None))


def test_without_quality_the_map_says_that_there_is_none(tmp_path):
    made = store(tmp_path, {"vaccine": 8}, (0,), (DriftMapPoint,))
    drawn = run_figure("drift_map", made)
    assert "trust — · kept — · drift —" in [axis.title.text for axis in drawn.select_xaxes()]


@pytest.mark.parametrize("name", ["drift_map", "directional_drift", "similarity_by_layer"])
def test_hostile_names_are_drawn_as_they_are(tmp_path, name):
    arm = "<b>$x$</b> &"
    made = store(tmp_path, {}, ())
    rows = [replace(r, example=arm + r.example) if isinstance(r, DriftMapPoint) else r
            for r in states.rows("attack", 8, 0, arm)]  # fmt: skip
    write(made, header("odd", "attack", arm, 0, None), rows, FIGURES[name].needs)
    drawn = json.loads(run_figure(name, made).to_json())
    text = json.dumps([drawn["data"], drawn["layout"]["annotations"]], ensure_ascii=False)
    assert "$" not in text and "&lt;b&gt;＄x＄&lt;/b&gt; &amp;" in text


@pytest.mark.parametrize("name", ["directional_drift", "similarity_by_layer"])
def test_curves_are_of_one_layer_or_one_step(frames, name):
    each = FIGURES[name]
    over = each.data(frames, each.given({"over": "step", "layer": 2}))
    assert set(over["layer"]) == {2} and set(over["step"]) == set(STEPS)
    assert "layer 2" in each.caption(over, each.given({"over": "step", "layer": 2}))
    last = each.data(frames, each.given({"over": "step", "layer": "last"}))
    assert set(last["layer"]) == {states.LAYERS - 1}
    across = each.data(frames, each.given({"over": "layer", "step": 8}))
    assert set(across["step"]) == {8} and set(across["layer"]) == set(range(states.LAYERS))
    assert each.missing(frames, {"over": "step", "layer": 99}) is not None
    released = each.data(frames, each.given({"checkpoint": "released"}))
    assert set(released["layer"]) == set(range(states.LAYERS)) and set(released["step"]) == {300}
    assert "released models" in each.caption(released, each.given({"checkpoint": "released"}))
    assert "last" in each.options(frames)["layer"]


def test_layers_without_a_gap_are_left_out(tmp_path):
    made, each = store(tmp_path, {}, ()), FIGURES["directional_drift"]
    rows = [r for r in states.rows("attack", 8, 0, "tar") if type(r) in each.needs]
    rows = [replace(r, values=[1e-4, *r.values[1:]]) if r.measure == "gap" else r for r in rows]
    write(made, header("t.sft", "attack", "tar", 0, {"name": "tar"}), rows, each.needs)
    table = each.data(load(made, None, each.needs), each.given({"over": "layer"}))
    assert set(table["layer"]) == set(range(1, states.LAYERS))
    assert set(table["measure"]) == {"along", "orthogonal"}
    assert "without layer 0: no gap" in each.caption(table, each.given({"over": "layer"}))


def test_one_measure_of_similarity_is_one_row(frames):
    each = FIGURES["similarity_by_layer"]
    assert len(list(each.draw(frames, {"measure": "cka"}).select_yaxes())) == 2
    assert len(list(each.draw(frames).select_yaxes())) == 4
