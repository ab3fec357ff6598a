"""Every figure of the registry draws whatever a store holds, and says what a store lacks."""

import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.figures.stores import ARMS, attacked, defended, header, losses, store, write
from workbench import catalogue
from workbench.errors import InvalidValueError, UnknownNameError
from workbench.figures import (
    DARK,
    FIGURES,
    GRAPH_CONFIG,
    LIGHT,
    Frames,
    figure,
    load,
    paper,
    run_figure,
)
from workbench.rows import KINDS, Loss, Prefill

ALL_KINDS = tuple(KINDS.values())
THEMES = [LIGHT, DARK, paper("icml"), paper("neurips", "full")]
names = pytest.mark.parametrize("name", FIGURES)


def texts(value):
    """Every string of a figure's JSON but its ids and the template's."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("meta", "template", "uid"):
                yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


@names
@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_draws_in_every_theme(drawn, name, theme):
    picture = drawn(name, theme)
    meta = picture.layout.meta
    assert meta["figure"] == name and meta["caption"] and "3 seeds" in meta["caption"]
    assert 0.1 < meta["aspect"] < 3
    assert len(picture.data) or len(picture.layout.annotations)


@names
def test_figures_survive_json(drawn, name):
    stored = json.loads(drawn(name).to_json())
    assert json.loads(go.Figure(stored).to_json()) == stored


@names
def test_no_text_can_start_tex_and_ids_are_lists(drawn, name):
    picture = drawn(name)
    assert not [text for text in texts(json.loads(picture.to_json())) if "$" in text]
    for trace in picture.data:
        assert not isinstance(getattr(trace, "customdata", None), np.ndarray)


@names
def test_the_table_is_tidy_and_decides_the_drawing(frames, drawn, name):
    each = FIGURES[name]
    params = each.given(None)
    table = each.data(frames, params)
    assert isinstance(table, pd.DataFrame) and len(table) and table.index.is_unique
    untrained = {"undefended"} if name == "training_terms" else set()
    assert set(table["arm"]) == set(ARMS) - untrained
    assert drawn(name).to_json() == each.draw_table(table.copy(), frames, params).to_json()


@names
def test_figures_set_no_type_but_the_themes(drawn, name):
    for theme in (LIGHT, paper("icml")):
        layout = json.loads(drawn(name, theme).to_json())["layout"]
        assert layout.get("width") is None and layout.get("height") is None
        assert '"family"' not in json.dumps({k: v for k, v in layout.items() if k != "template"})


@names
@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
@pytest.mark.parametrize("arm", ["undefended", "vaccine-control"])
def test_one_arm_and_few_seeds(small, name, seeds, arm):
    stage = {"stage": "attack"} if name == "training_terms" else {}  # undefended has no other
    drawn = run_figure(name, small((arm,), seeds), **stage)
    assert drawn.layout.meta["caption"].startswith("1 seed ·" if seeds == (0,) else "2 seeds")


@names
def test_an_empty_store_says_which_command_writes_runs(tmp_path, name):
    drawn = run_figure(name, store(tmp_path, {}))
    assert drawn.layout.meta["empty"]
    assert f"workbench study --store {tmp_path}" in drawn.layout.annotations[0].text
    assert FIGURES[name].missing(Frames()) is not None


@names
def test_runs_without_the_rows_say_which_rows(small, name):
    poor = small(("vaccine",), (0,), ())
    lacks = FIGURES[name].missing(load(poor, None, FIGURES[name].needs))
    for kind in FIGURES[name].needs:
        assert kind.kind in lacks.what
    assert run_figure(name, poor).layout.meta["empty"]


def single_tables():
    """Every figure with each table that it needs, and with one that it does not."""
    for name, each in FIGURES.items():
        other = next(kind for kind in ALL_KINDS if kind not in each.needs)
        yield from (pytest.param(name, kind, id=f"{name}-{kind.kind}") for kind in each.needs)
        yield pytest.param(name, other, id=f"{name}-{other.kind}")


@pytest.mark.parametrize(("name", "kind"), single_tables())
def test_any_single_table_draws_or_says_why_not(small, name, kind):
    drawn = run_figure(name, small(("vaccine",), (0, 1), (kind,)))
    assert drawn.layout.meta.get("empty") or drawn.layout.meta["caption"]


def test_a_setting_no_run_has_is_named(frames):
    lacks = FIGURES["drift_by_layer"]
    told = lacks.missing(frames, lacks.given({"site": "nowhere"}))
    assert "no site 'nowhere' (there is: resid_post)" in told.what
    odd = lacks.draw(frames, {"site": "<i>$x$"}).layout.annotations[0].text
    assert "$" not in odd and "&lt;i&gt;" in odd


@pytest.mark.parametrize("params", [
    {"x": x, "log": log} for x in ("step", "samples", "tokens", "flops") for log in (False, True)
])  # fmt: skip
def test_every_budget_axis(frames, params):
    drawn = FIGURES["attack_budget"].draw(frames, params)
    assert not drawn.layout.meta.get("empty")
    assert all(len(trace.x) for trace in drawn.data)
    shown = np.concatenate([np.asarray(t.x, float) for t in drawn.data])
    assert np.isfinite(shown).all() and (not params["log"] or (shown > 0).all())


@pytest.mark.parametrize("params", [
    {"checkpoint": "attacked"}, {"checkpoint": "attacked", "step": 8}, {"group": "hazard"},
    {"log": True}, {"positions": 3}, {"average": "mean"},
])  # fmt: skip
def test_every_kl_setting(frames, params):
    drawn = FIGURES["kl_by_position"].draw(frames, params)
    assert not drawn.layout.meta.get("empty")
    if "positions" in params:
        assert max(max(trace.x) for trace in drawn.data) == 2


def test_the_released_model_does_not_differ_from_itself(frames):
    each = FIGURES["kl_by_position"]
    table = each.data(frames, each.given({"checkpoint": "attacked", "step": 0}))
    assert (table["median"] == 0).all()


@pytest.mark.parametrize("params", [
    {"stage": "attack"}, {"mean_of": 4}, {"gradient": False}, {"log": True},
])  # fmt: skip
def test_every_setting_of_training_terms(frames, params):
    each = FIGURES["training_terms"]
    drawn = each.draw(frames, params)
    heads = [head.text for head in drawn.layout.annotations]
    assert heads[:1] == ["align"]
    assert ("gradient norm" in heads) == params.get("gradient", True)
    assert ("tamper" in heads) == (params.get("stage") != "attack")  # a term that only tar has
    longest = max(len(trace.x) for trace in drawn.data)
    assert longest == {"attack": 64}.get(params.get("stage"), 8 if "mean_of" in params else 30)


def test_terms_are_drawn_as_they_were_written(frames):
    each = FIGURES["training_terms"]
    table = each.data(frames, each.given(None)).set_index(["arm", "panel", "seed", "step"])
    rows = frames[Loss]
    rows = rows[(rows["stage"] == "defence") & (rows["arm"] == "tar")]
    for _, row in rows.iterrows():
        assert table.loc[("tar", row["term"], row["seed"], row["step"]), "value"] == row["value"]
        norm = table.loc[("tar", "gradient norm", row["seed"], row["step"]), "value"]
        assert norm == pytest.approx(row["grad_norm"])
    four = each.data(frames, each.given({"mean_of": 4}))
    four = four[(four["arm"] == "tar") & (four["panel"] == "align") & (four["seed"] == 1)]
    assert four["step"].tolist() == [4, 8, 12, 16, 20, 24, 28, 30]
    first = rows[(rows["term"] == "align") & (rows["seed"] == 1) & (rows["step"] <= 4)]
    assert four["value"].iloc[0] == pytest.approx(first["value"].mean())


def test_long_training_is_averaged(tmp_path):
    made = store(tmp_path, {}, ())
    run = header("long", "immunise", "tar", 0, {"name": "tar"})
    write(made, run, losses("defence", "tar", 0, 2000), ALL_KINDS)
    drawn = run_figure("training_terms", made)
    assert max(len(trace.x) for trace in drawn.data) <= 150
    assert "each point the mean of 14 steps" in drawn.layout.meta["caption"]


def test_a_stage_that_was_not_trained_is_named(tmp_path):
    made = store(tmp_path, {"undefended": 8}, (0,))
    told = run_figure("training_terms", made).layout.annotations
    assert "no stage 'defence' (there is: attack)" in told[0].text.replace("<br>", " ")


def test_prefilled_tokens_are_averaged_over_prompts_then_seeds(tmp_path):
    def row(prompt, values, group="hazard", domain="defended"):
        return Prefill(stage="defence", step=9, split="test", domain=domain, example=f"p{prompt}",
                       group=group, values=values)  # fmt: skip

    made = store(tmp_path, {}, ())
    told = {0: [[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0]], 1: [[0.0, 0.0, 0.0, 1.0]]}
    for seed, curves in told.items():
        rows = [row(n, values) for n, values in enumerate(curves)]
        rows += [row(7, [1.0] * 4, "benign"), row(8, [0.0, 0.5], domain="unseen")]
        write(made, header(f"tar-s{seed}", "immunise", "tar", seed, {"name": "tar"}), rows,
              ALL_KINDS)  # fmt: skip
    each = FIGURES["prefill"]
    frames = load(made, None, each.needs)
    table = each.data(frames, each.given(None))
    by_seed = table[table["seed"] == 0]
    assert by_seed["harmfulness"].tolist() == pytest.approx([0, 2 / 3, 1])  # 4 tokens: one of three
    mean = table[table["seed"].isna()]
    assert mean["harmfulness"].tolist() == pytest.approx([0, 1 / 3, 0.5])  # no mean without seed 0
    assert "n=3 hazards (defended, test)" in each.caption(table, each.given(None))
    other = each.data(frames, each.given({"domain": "unseen", "tokens": 1}))
    assert other["harmfulness"].max() == 0.5
    assert each.options(frames) == {"domain": ["defended", "unseen"]}


def test_a_threshold_moved_judges_anew(frames):
    each = FIGURES["four_pillars"]

    def verdicts(**params):
        table = each.data(frames, each.given(params))
        return table[table["pillar"] == "resistance"].set_index("arm")["verdict"].to_dict()

    assert verdicts()["undefended"] == "broken-useful" and verdicts()["tar"] == "held"
    assert set(verdicts(phi=1.0).values()) == {"held"}
    assert verdicts(utility_floor=1.0)["undefended"] == "broken-useless"


def test_what_was_not_measured_is_a_dash(frames):
    each = FIGURES["four_pillars"]
    table = each.data(frames, each.given(None))
    unmeasured = table[table["pillar"].isin(["generalisation", "trainability"])]
    assert set(unmeasured["verdict"]) == {"—"} and unmeasured[["low", "high"]].isna().all(axis=None)
    assert set(unmeasured["detail"]) == {"not measured"}
    assert "φ = 0.5" in str(each.draw(frames).layout.annotations)


def test_one_seed_never_decides_stability(tmp_path):
    each = FIGURES["four_pillars"]
    one = store(tmp_path, {"vaccine": 8, "vaccine-control": 8}, (0,))
    table = each.data(load(one, None, each.needs), each.given(None)).set_index(["arm", "pillar"])
    assert table.loc[("vaccine", "stability"), "verdict"] == "undecided"


@names
@pytest.mark.filterwarnings("error")
@given(data=st.data())
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_selection_of_runs_draws(runs, name, data):
    ids = [run.id for run in runs.runs()]
    chosen = data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=4))
    phi = data.draw(st.floats(0, 1))
    params = {"phi": phi} if "phi" in {f.name for f in fields(FIGURES[name].params)} else {}
    drawn = run_figure(name, runs, chosen, **params)
    assert drawn.layout.meta.get("empty") or drawn.layout.meta["caption"]
    drawn.to_json()


@names
def test_help_says_what_is_not_shown_and_every_parameter_is_explained(name):
    each = FIGURES[name]
    assert "does not show" in each.help and "Source:" in each.help
    assert each.title.endswith("?")
    for item in catalogue.settings(each.params):
        assert item["doc"].endswith("."), item["name"]
        assert "default" in item
        assert catalogue.parse_type(item["type"])


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    arm = "<b>$x$</b> &"
    odd = store(tmp_path, {}, ())
    run = header("odd.sft", "attack", arm, 0, {"name": arm})
    write(odd, run, attacked(8, 0, 4, arm=arm), ALL_KINDS)
    model = header("odd", "immunise", arm, 0, {"name": arm})
    write(odd, model, defended(arm, 0, 4), ALL_KINDS)
    other = header("even.sft", "attack", "undefended", 0, None)
    write(odd, other, attacked(8, 0, 4, arm="undefended"), ALL_KINDS)
    for name in FIGURES:
        shown = list(texts(json.loads(run_figure(name, odd).to_json())))
        assert not [text for text in shown if "$" in text or "<b>＄" in text], name
        assert any("&lt;b&gt;＄x＄&lt;/b&gt; &amp;" in text for text in shown), name


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"phi": 2}, InvalidValueError, "phi is a share between 0 and 1"),
        ({"phi": float("nan")}, InvalidValueError, "phi must be a number, not nan"),
        ({"phi": "much"}, InvalidValueError, "phi must be a number, not 'much'"),
        ({"x": "hours"}, InvalidValueError, "x must be one of step, samples, tokens, flops"),
        ({"phy": 0.5}, UnknownNameError, "Did you mean 'phi'"),
        ({"log": 1}, InvalidValueError, "log must be true or false"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        FIGURES["attack_budget"].draw(Frames(), params)


def test_parameters_of_another_figure_are_refused():
    wrong = FIGURES["drift_by_layer"].given(None)
    with pytest.raises(InvalidValueError, match="takes AttackBudgetParams"):
        FIGURES["attack_budget"].draw(Frames(), wrong)


def test_parameters_can_be_text_as_a_url_gives_them():
    params = FIGURES["attack_budget"].given({"phi": "0.4", "log": "true", "attack": "sft"})
    assert (params.phi, params.log, params.attack) == (0.4, True, "sft")
    assert FIGURES["kl_by_position"].given({"step": "none"}).step is None
    assert FIGURES["kl_by_position"].given({"step": "8"}).step == 8


def test_unknown_figures_get_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'attack_budget'"):
        figure("attack_budgt")


def test_no_figure_can_be_uploaded():
    assert GRAPH_CONFIG["showSendToCloud"] is False and GRAPH_CONFIG["displaylogo"] is False
    assert GRAPH_CONFIG["plotlyServerURL"] == ""


def test_figures_never_load_torch():
    imports = "import sys, workbench.figures, workbench.commands.figures"
    code = f"{imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
