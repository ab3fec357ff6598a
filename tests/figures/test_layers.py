"""What the figures of the page about layers say beyond what every figure does."""

from dataclasses import replace

import pytest

from tests.figures.invented import layers
from tests.figures.stores import header, store, write
from workbench.figures import FIGURES, load, run_figure
from workbench.rows import KINDS, LinearProbes, Token


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


@pytest.mark.parametrize("show", ["prompt", "mean"])
@pytest.mark.parametrize(("group", "whose"), [
    ("hazard", "hazardous"), ("framed", "framed hazardous"), ("benign", "hazardous"),
])  # fmt: skip
def test_the_caption_says_whose_break_points_the_diamonds_are(frames, show, group, whose):
    caption = draw(frames, "cosine_map", show=show, group=group)[1].layout.meta["caption"]
    assert f"diamond: break point of a seed, {whose} beside benign prompts" in caption


def test_a_prompt_that_was_not_kept_is_named(frames):
    told = FIGURES["cosine_map"].missing(frames, {"prompt": "hazard-7"})
    assert "no prompt 'hazard-7' (there is: hazard-0, hazard-1)" in told.what
    assert told.command is None and "Written by" not in str(told)


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
    assert len(shaded) == (measure == "auroc")  # only their own states were learnt shuffled, too


def test_every_panel_has_the_chance_of_its_own_way(tmp_path):
    rows = [r for r in layers.rows("defence", 9, 0, "tar") if isinstance(r, LinearProbes)]
    told = {"fitted": "checkpoint", "trained_on": "defended", "tested_on": "unseen"}
    rows += [
        replace(row, **told, values=[x / 2 for x in row.values])
        for row in rows if row.measure in ("shuffled_low", "shuffled_high")
    ]  # fmt: skip
    made = store(tmp_path, {})
    write(made, header("tar-s0", "immunise", "tar", 0, {"name": "tar"}), rows, (LinearProbes,))
    table, drawn = draw(load(made, None, (LinearProbes,)), "probe_by_layer")
    bands = table.groupby("panel")[["low", "high"]].first()
    assert bands.loc["own states"].tolist() == pytest.approx([0.4, 0.6])
    assert bands.loc["defended → unseen"].tolist() == pytest.approx([0.2, 0.3])
    assert bands.drop(["own states", "defended → unseen"]).isna().all(axis=None)
    shaded = [trace for trace in drawn.data if trace.name == "shuffled labels"]
    assert [trace.showlegend for trace in shaded] == [True, False]


@pytest.mark.parametrize("position", [0, 1])
def test_the_lens_says_which_token_it_predicts(frames, position):
    caption = draw(frames, "lens_by_layer", position=position)[1].layout.meta["caption"]
    assert f"predicting response token {position}, mean over prompts" in caption
    assert "read at" not in caption


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Two families of models, with tokens of their own, in one store."""
    made = store(tmp_path_factory.mktemp("families"), {})
    for arm in ("tar", "vaccine"):
        rows = [
            replace(row, piece=f"{arm}{row.position}") if isinstance(row, Token) else row
            for row in layers.rows("defence", 9, 0, arm)
        ]
        run = header(f"{arm}-s0", "immunise", arm, 0, {"name": arm}, model=f"some/{arm}")
        write(made, run, rows, tuple(KINDS.values()))
    return load(made, None, FIGURES["cosine_map"].needs)


def test_families_have_their_own_tokens(families):
    table, drawn = draw(families, "cosine_map")
    for arm, part in table.groupby("arm"):
        assert set(part["piece"]) == {f"{arm}{k}" for k in range(13)}
    above, below = drawn.layout.xaxis, drawn.layout.xaxis2
    assert above.ticktext[0] == "vaccine0" and below.ticktext[0] == "tar0"
    assert above.showticklabels and below.showticklabels and not above.title.text


def test_one_family_has_its_tokens_once(frames):
    drawn = draw(frames, "cosine_map")[1]
    assert [bool(axis.ticktext) for axis in drawn.select_xaxes()] == [False] * 3 + [True]
