"""What the figures of the page about layers say beyond what every figure does."""

import pytest

from tests.figures.stores import store
from workbench.figures import FIGURES, run_figure
from workbench.rows import KINDS


def draw(frames, name, **params):
    each = FIGURES[name]
    return each.data(frames, each.given(params)), each.draw(frames, params)


def test_break_points_stand_where_the_seeds_found_them(frames):
    table, drawn = draw(frames, "cosine_map")
    cells = table[table["breaks"] > 0].set_index(["arm", "layer", "response"])["breaks"]
    assert cells.to_dict() == {("vaccine", 1, 2): 1, ("vaccine", 1, 3): 1, ("tar", 1, 2): 2,
                               ("tar", 1, 3): 1}  # fmt: skip
    heads = [head.text for head in drawn.layout.annotations]
    assert "undefended: no break (p = 0.31)" in heads
    assert "tar: layer 1, token 2 (3/3 seeds, p = 0.001)" in heads
    assert "vaccine: layer 1, token 2 (2/3 seeds, p = 0.001–0.31)" in heads


def test_tokens_are_ticks_and_the_response_begins_after_a_gap(frames):
    table, drawn = draw(frames, "cosine_map")
    axis = drawn.layout.xaxis4
    assert axis.ticktext[:3] == ("how", "is", "&lt;tar&gt;") and axis.tickvals[4:6] == (4, 6)
    assert table.loc[table["response"] == 0, "piece"].unique().tolist() == ["first"]


@pytest.mark.parametrize("params", [
    {"show": "mean"}, {"show": "mean", "group": "framed"}, {"show": "mean", "group": "benign"},
    {"measure": "norm_ratio"}, {"show": "mean", "measure": "norm_ratio"}, {"prompt": "hazard-1"},
    {"checkpoint": "attacked"}, {"checkpoint": "attacked", "step": 64},
])  # fmt: skip
def test_every_setting_of_the_map(frames, params):
    table, drawn = draw(frames, "cosine_map", **params)
    assert len(table) and not drawn.layout.meta.get("empty")
    assert table["response"].min() == (0 if params.get("show") == "mean" else -5)


def test_a_prompt_that_was_not_kept_is_named(frames):
    told = FIGURES["cosine_map"].missing(frames, {"prompt": "hazard-7"})
    assert "no prompt 'hazard-7' (there is: hazard-0, hazard-1)" in told.what


def test_without_tokens_positions_are_ticks(tmp_path):
    kinds = [kind for kind in KINDS.values() if kind.kind != "tokens"]
    drawn = run_figure("cosine_map", store(tmp_path, {"tar": 9}, (0,), kinds))
    assert drawn.layout.xaxis.ticktext[0] == "-5"


def test_benign_quantiles_go_with_their_arm(frames):
    table, _ = draw(frames, "cosine_by_layer")
    pooled = table[table["seed"].isna()].set_index(["arm", "group", "layer"])
    benign = pooled.xs("benign", level="group")
    for (arm, _, layer), floor in pooled["benign_q05"].items():
        assert floor == benign.loc[(arm, layer), "benign_q05"] <= benign.loc[(arm, layer), "mean"]
    ratio, _ = draw(frames, "cosine_by_layer", measure="norm_ratio")
    assert ratio["mean"].between(0.2, 1.1).all()


@pytest.mark.parametrize("measure", ["auroc", "accuracy", "ece"])
def test_probes_have_a_panel_for_each_way_to_learn_and_judge(frames, measure):
    table, drawn = draw(frames, "probe_by_layer", measure=measure)
    panels = {"auroc": 4, "accuracy": 2, "ece": 1}[measure]
    assert table["panel"].nunique() == panels
    shaded = [t for t in drawn.data if t.name == "shuffled labels"]
    assert len(shaded) == (panels if measure == "auroc" else 0)
