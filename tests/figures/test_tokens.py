"""Figures of the vocabulary pass and the logit lens: their tables, settings and odd names."""

import json

import numpy as np
import pytest

from tests.figures.invented import lens, vocabulary
from tests.figures.stores import ARMS, header, kl, store, write
from tests.figures.test_draw import texts
from workbench.errors import InvalidValueError
from workbench.figures import FIGURES, load, run_figure
from workbench.rows import KINDS, LensByLayer, TokenKL, TokenMover, TokenStatistics
from workbench.shallowness import budget_share

NAMES = ("shallowness", "token_profile", "token_movers", "lens_by_layer")


@pytest.mark.parametrize(("name", "params"), [
    ("shallowness", {"checkpoint": "attacked"}), ("shallowness", {"group": "benign"}),
    ("shallowness", {"checkpoint": "attacked", "step": 8}),
    *[("token_profile", {"measure": m}) for m in ("nll", "entropy", "gini", "refusal_mass")],
    ("token_profile", {"checkpoint": "attacked", "step": 4, "group": "hazard"}),
    ("token_movers", {"position": None}), ("token_movers", {"checkpoint": "attacked"}),
    ("token_movers", {"group": "benign", "tokens": 2}),
    *[("lens_by_layer", {"measure": m}) for m in ("kl_to_reference", "committed", "rank")],
    ("lens_by_layer", {"position": 1, "checkpoint": "attacked"}),
])  # fmt: skip
def test_every_setting(frames, name, params):
    drawn = FIGURES[name].draw(frames, params)
    assert not drawn.layout.meta.get("empty") and "3 seeds" in drawn.layout.meta["caption"]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_drawn_as_they_are(tmp_path, name):
    arm, made = "<b>$x$</b> &", store(tmp_path, {}, ())
    rows = [*kl("defence", 300, "base", 0), *vocabulary.rows("defence", 300, 0, arm),
            *lens.rows("defence", 300, 0, arm)]  # fmt: skip
    write(made, header("odd", "immunise", arm, 0, {"name": arm}), rows, tuple(KINDS.values()))
    drawn = json.loads(run_figure(name, made).to_json())
    ticks = drawn["layout"].get("yaxis", {}).get("ticktext", [])
    shown = [*texts(drawn), *ticks]
    assert not [text for text in shown if "$" in text or "<b>＄" in text]
    assert any("&lt;b&gt;＄x＄&lt;/b&gt; &amp;" in text for text in shown)


def test_shallowness_is_that_of_the_rows(frames):
    each = FIGURES["shallowness"]
    table = each.data(frames, each.given(None))
    rows = frames[TokenKL].query("stage == 'defence' and group == 'hazard'")
    pooled = table[table["seed"].isna()].set_index(["arm", "summary"])
    for arm in ARMS:
        of_arm = rows[rows["arm"] == arm]
        share = pooled.loc[(arm, "share_5")]
        assert share["value"] == pytest.approx(budget_share(of_arm["values"].tolist(), 5))
        assert share["low"] <= share["value"] <= share["high"] and share["prompts"] == 6
        one = table.query("arm == @arm and seed == 1 and summary == 'share_5'")["value"].item()
        of_seed = of_arm[of_arm["seed"] == 1]["values"].tolist()
        assert one == pytest.approx(budget_share(of_seed, 5))
    # the invented arms have the same KL: paired, they differ by nothing
    others = pooled[pooled["baseline"] == "undefended"]
    assert len(others) == 9 and not others[["difference", "difference_low"]].any(axis=None)


def test_a_profile_weighs_seeds_by_their_prompts(tmp_path):
    def row(values, prompts, whose="checkpoint"):
        same = {"values": values, "low": values, "high": values, "prompts": prompts}
        return TokenStatistics(stage="defence", step=9, reference="base", group="hazard",
                               whose=whose, measure="nll", **same)  # fmt: skip

    made = store(tmp_path, {}, ())
    told = {0: ([1.0, 2.0, 9.0], [4.0, 4.0, 1.0]), 1: ([3.0, 5.0], [12.0, 4.0])}
    for seed, given in told.items():
        write(made, header(f"tar-s{seed}", "immunise", "tar", seed, {"name": "tar"}),
              [row(*given)], (TokenStatistics,))  # fmt: skip
    each = FIGURES["token_profile"]
    table = each.data(load(made, None, each.needs), each.given(None))
    pooled = table[table["seed"].isna()].set_index("position")
    assert pooled["value"].to_dict() == {0: pytest.approx(2.5), 1: pytest.approx(3.5)}
    assert pooled["prompts"].to_dict() == {0: 16, 1: 8}
    assert table[table["seed"] == 0]["position"].tolist() == [0, 1]  # one of four gets to 2


def test_layers_are_drawn_as_they_were_written(frames):
    each = FIGURES["lens_by_layer"]
    table = each.data(frames, each.given({"measure": "rank"}))
    rows = frames[LensByLayer].query("stage == 'defence' and measure == 'rank' and position == 0")
    for _, row in rows.iterrows():
        found = table[table["seed"].notna()]
        for name in ("arm", "seed", "whose", "group"):
            found = found[found[name] == row[name]]
        np.testing.assert_allclose(found.sort_values("layer")["value"], row["values"], rtol=1e-6)
    missing = each.missing(frames, each.given({"position": 9}))
    assert "no position 9 (there is: 0, 1)" in missing.what


def test_movers_are_averaged_over_prompts_then_seeds(tmp_path):
    def row(example, position, piece, p, q):
        return TokenMover(stage="defence", step=9, reference="base", group="hazard", token=1,
                          example=example, position=position, piece=piece, p=p, q=q,
                          contribution=1.0)  # fmt: skip

    made = store(tmp_path, {}, ())
    first = [row("a", 0, "no", 0.8, 0.2), row("b", 0, "no", 0.4, 0.2),
             row("a", 1, "no", 1.0, 0.6), row("a", 0, "yes", 0.1, 0.7)]  # fmt: skip
    told = {0: first, 1: [row("a", 0, "no", 0.3, 0.1)]}
    for seed, rows in told.items():
        write(made, header(f"tar-s{seed}", "immunise", "tar", seed, {"name": "tar"}), rows,
              (TokenMover,))  # fmt: skip
    each = FIGURES["token_movers"]
    frames = load(made, None, each.needs)
    table = each.data(frames, each.given(None)).set_index(["piece", "seed"])
    assert table.loc[("no", 0), "moved"] == pytest.approx(0.4)
    assert table.loc[("no", 1), "moved"] == pytest.approx(0.2)
    assert table.loc[("yes", 0), "moved"] == pytest.approx(-0.3)
    every = each.data(frames, each.given({"position": None})).set_index(["piece", "seed"])
    assert every.loc[("no", 0), "moved"] == pytest.approx(0.6)
    few = each.data(frames, each.given({"tokens": 1}))
    assert len(set(few["piece"])) == 1


@pytest.mark.parametrize(("name", "params"), [
    ("token_profile", {"positions": 0}), ("token_movers", {"tokens": 0}),
    ("token_gradients", {"positions": 0}),
])  # fmt: skip
def test_bad_parameters(frames, name, params):
    with pytest.raises(InvalidValueError, match="must be at least 1, not 0"):
        FIGURES[name].draw(frames, params)


@pytest.mark.parametrize("name", ["kl_by_position", "shallowness"])
def test_a_measure_that_was_not_stored_is_not_offered_and_names_those_there_are(frames, name):
    each = FIGURES[name]
    assert each.options(frames)["measure"] == ["forward_kl"]
    told = each.missing(frames, {"measure": "js"})
    assert told.command is None and "no measure 'js' (there is: forward_kl)" in told.what
    drawn = each.draw(frames, {"measure": "js"})
    assert "Written by" not in drawn.layout.annotations[0].text


def test_choices_that_do_not_go_together_are_told_what_there_is(tmp_path):
    made = store(tmp_path, {}, ())
    write(made, header("tar-s0", "immunise", "tar", 0, {"name": "tar"}), kl("defence", 9, "b", 0),
          (TokenKL,))  # fmt: skip
    each = FIGURES["kl_by_position"]
    told = each.missing(load(made, None, each.needs), {"checkpoint": "attacked"})
    assert told.command is None and "together. There is: attack —; step —; measure" in told.what


def test_movers_without_a_limit_are_all(frames):
    each = FIGURES["token_movers"]
    every = each.data(frames, each.given({"tokens": None}))
    rows = frames[TokenMover].query("stage == 'defence' and group == 'hazard' and position == 0")
    assert set(every["piece"]) == set(rows["piece"])
