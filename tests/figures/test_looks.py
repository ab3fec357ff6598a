"""Looks at a checkpoint: only true repeats are left out, and nothing is drawn on top of another."""

from dataclasses import replace
from hashlib import sha256

import pytest

from tests.figures.stores import header, write
from workbench import catalogue
from workbench.figures import FIGURES, arm_names, load, newest
from workbench.figures._looks import CHOSEN
from workbench.rows import KINDS, EmbeddingDrift, columns
from workbench.store import Store

DRIFT = {"sites": ["resid_post", "attn_module_out"], "positions": "last_prompt", "sums": False}
SIMILARITY = {"sites": ["resid_post"], "positions": "last_prompt"}


def look(name, *, probes=None, seed=0, about=(), **settings):
    """The header of a look, by default with the probe drift."""
    probes = probes or {"drift": DRIFT | settings}
    told = {"name": next(iter(probes)), "probes": probes, "reference": "lab:base",
            "split": "test", "prompts": 32, "template": None} | dict(about)  # fmt: skip
    return header(name, "immunise", "m", seed, None, probe=told, model="m")


def shown(*runs):
    """Ids of the runs on show with the name of each one's arm, and why others are not."""
    kept, why = newest(list(runs))
    return {run.id: arm_names(runs)[run.id][0] for run in kept}, why


def test_other_tokens_are_another_look_under_the_same_name():
    found, why = shown(look("a"), look("b", positions="response"), look("c", positions="all"))
    assert found == {"a": "m", "b": "m", "c": "m"} and not why


def test_a_true_repeat_is_left_out():
    found, why = shown(look("old"), look("other", positions="response"), look("new"))
    assert found == {"other": "m", "new": "m"} and why == {"old": "a newer run repeats it: new"}


@pytest.mark.parametrize(
    ("key", "values"),
    [("reference", ("lab:base", "lab:oracle")), ("split", ("test", "valid")), ("prompts", (32, 8))],
)
def test_what_rows_do_not_tell_is_in_the_name(key, values):
    found, why = shown(*[look(f"run{i}", about={key: value}) for i, value in enumerate(values)])
    assert list(found.values()) == [f"m {key}={value}" for value in values] and not why


def test_templates_are_told_apart_by_their_digests():
    templates = [None, "{{ a }} {{ b }}", "{{ b }} {{ a }}"]
    looks = [look(f"run{i}", about={"template": each}) for i, each in enumerate(templates)]
    digests = [sha256(text.encode()).hexdigest()[:8] for text in templates[1:]]
    assert list(shown(*looks)[0].values()) == [f"m template={said}" for said in ("None", *digests)]


def test_a_setting_of_the_probe_that_its_rows_do_not_carry_is_in_the_name():
    found, why = shown(look("a"), look("b", sums=True))
    assert found == {"a": "m sums=False", "b": "m sums=True"} and not why


def test_the_name_says_it_wherever_it_holds():
    other = {"reference": "lab:oracle"}
    found, _ = shown(
        look("a"), look("b", about=other), look("c", probes={"similarity": SIMILARITY})
    )
    assert found == {
        "a": "m reference=lab:base", "b": "m reference=lab:oracle", "c": "m reference=lab:base",
    }  # fmt: skip


def test_choosing_tokens_keeps_other_references_apart_already():
    found, _ = shown(look("a"), look("b", positions="all", about={"reference": "lab:oracle"}))
    assert found == {"a": "m", "b": "m"}


def test_less_of_the_same_is_left_out_whichever_is_newer():
    few = {"sites": ["resid_post"]}
    assert shown(look("few", **few), look("all"))[1] == {"few": "a newer run repeats it: all"}
    assert shown(look("all"), look("few", **few))[1] == {"few": "another run holds it, too: all"}
    both = look("both", probes={"drift": DRIFT, "similarity": SIMILARITY},
                about={"name": "compare", "base": "", "digest": "d"})  # fmt: skip
    found, why = shown(both, look("one"))
    assert found == {"both": "m"} and why == {"one": "another run holds it, too: both"}


def test_sites_that_overlap_are_told_apart():
    found, why = shown(look("a"), look("b", sites=["resid_post", "mlp_out"]))
    assert not why and found["b"] == "m sites=resid_post+mlp_out"


def test_seeds_are_seeds():
    found, why = shown(look("a"), look("b", seed=1), look("c", seed=1))
    assert found == {"a": "m", "c": "m"} and set(why) == {"b"}


def test_a_setting_that_older_runs_do_not_know_is_no_difference():
    old = look("old")
    del old.probe["probes"]["drift"]["sums"]
    assert shown(old, look("new"))[1] == {"old": "a newer run repeats it: new"}


def test_a_recording_that_grew_is_looked_at_anew():
    steps = [{"recording": {"steps": list(range(n)), "complete": n == 3}} for n in (2, 3)]
    found, why = shown(look("half", about=steps[0]), look("whole", about=steps[1]))
    assert found == {"whole": "m"} and set(why) == {"half"}


def test_looks_do_not_name_runs_that_trained():
    study = replace(look("study"), probe=None)
    names = shown(study, look("a"), look("b", about={"reference": "lab:oracle"}))[0]
    assert names["study"] == "m" and names["a"] == "m reference=lab:base"


def test_long_paths_are_told_by_their_ends():
    found, _ = shown(look("a"), look("b", about={"reference": "/" + "x" * 90 + "/here"}))
    assert found["b"].endswith("xx/here") and len(found["b"]) < 80


def test_two_positions_in_one_store_are_both_drawn(tmp_path):
    made = Store(tmp_path)
    for k, positions in enumerate(("last_prompt", "response"), 1):
        rows = [
            EmbeddingDrift(stage="defence", step=0, reference="lab:base", example=f"{group}-{i}",
                           group=group, site="resid_post", positions=positions,
                           measure="relative_l2", values=[0.1 * k, 0.2 * k])
            for group in ("hazard", "benign") for i in range(2)
        ]  # fmt: skip
        write(made, look(positions, positions=positions), rows, (EmbeddingDrift,))
    each = FIGURES["drift_by_layer"]
    frames = load(made, None, each.needs)
    assert not frames.left_out and set(frames[EmbeddingDrift]["arm"]) == {"m"}
    for k, positions in enumerate(("last_prompt", "response"), 1):
        table = each.data(frames, each.given({"positions": positions}))
        assert table["drift"].tolist() == pytest.approx([0.1 * k, 0.2 * k] * 2)


def test_what_names_leave_out_is_in_the_rows_and_in_the_figures():
    """The plural of a setting is a column and a parameter in the singular."""
    known = {probe["name"]: probe for probe in catalogue.load()["probes"]}
    for name, settings in CHOSEN.items():
        kinds = set(known[name]["rows"])
        figures = [each for each in FIGURES.values() if kinds & {k.kind for k in each.needs}]
        for setting in settings:
            assert setting in {field["name"] for field in known[name]["fields"]}
            plural = setting in ("sites", "epsilons")
            column = setting.removesuffix("s") if plural else setting
            assert all(column in columns(KINDS[kind]) for kind in kinds), (name, setting)
            assert figures
            assert all(column in each.params.__dataclass_fields__ for each in figures)
