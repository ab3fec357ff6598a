"""Which runs a figure shows, what it calls them, and what it leaves out."""

import json

import pytest

from tests.figures.stores import attacked, header, store, write
from workbench.errors import UnknownNameError
from workbench.figures import Frames, load
from workbench.figures._frames import in_order
from workbench.rows import Cost, Metric
from workbench.store import Store

KINDS = (Metric, Cost)


def ids(frames):
    return {run.id for run in frames.runs}


def test_all_runs_by_default_with_arm_attack_and_seed(runs):
    frames = load(runs, None, KINDS)
    rows = frames[Metric]
    assert rows.columns[:4].tolist() == ["run", "arm", "attack", "seed"]
    line = rows[rows["run"] == "vaccine-control-s2.sft"].iloc[0]
    assert (line["arm"], line["attack"], line["seed"]) == ("vaccine-control", "sft", 2)
    assert len(frames.runs) == 24 and not frames.left_out


def test_a_run_brings_its_relatives(runs):
    assert ids(load(runs, ["tar-s1.sft"], ())) == {"tar-s1", "tar-s1.sft"}
    assert ids(load(runs, ["tar-s1"], ())) == {"tar-s1", "tar-s1.sft"}
    assert ids(load(runs, [runs.get("tar-s1")], ())) == {"tar-s1", "tar-s1.sft"}
    assert ids(load(runs, [], ())) == set()


def test_a_sibling_attack_is_not_brought(tmp_path):
    made = store(tmp_path, {"vaccine": 8}, (0,))
    other = header("vaccine-s0.lora", "attack", "vaccine", 0, {"name": "vaccine"}, ["vaccine-s0"],
                   attack={"name": "lora"})  # fmt: skip
    write(made, other, attacked(16, 0, 4), KINDS)
    assert ids(load(made, ["vaccine-s0.sft"], ())) == {"vaccine-s0", "vaccine-s0.sft"}
    frames = load(made, None, KINDS)
    assert set(frames.attacked(Metric, "lora")["run"]) == {"vaccine-s0.lora"}
    assert set(frames.attacked(Metric, None)["attack"]) == {"lora"}  # the first by name
    assert frames.found(Metric, "attack") == {"attack": ["lora", "sft"]}


def test_unknown_runs_get_a_suggestion(runs):
    with pytest.raises(UnknownNameError, match="Did you mean 'tar-s1"):
        load(runs, ["tar-s11"], KINDS)


def test_a_run_of_a_newer_workbench_is_named_and_never_opened(tmp_path):
    made = store(tmp_path, {"vaccine": 8}, (0, 1))
    file = made.folder("vaccine-s1.sft") / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99, "wonder": 1}))
    (made.folder("vaccine-s1.sft") / "metrics.parquet").write_bytes(b"never read")
    frames = load(made, None, KINDS)
    assert ids(frames) == {"vaccine-s0", "vaccine-s0.sft", "vaccine-s1"}
    assert "newer workbench (schema 99" in frames.left_out["vaccine-s1.sft"]
    assert load(made, ["vaccine-s1.sft"], KINDS).left_out.keys() == {"vaccine-s1.sft"}


def test_a_corrupt_table_leaves_its_run_out(tmp_path):
    made = store(tmp_path, {"vaccine": 8}, (0, 1))
    (made.folder("vaccine-s1.sft") / "metrics.parquet").write_bytes(b"rubbish")
    frames = load(made, None, KINDS)
    assert "vaccine-s1.sft" not in ids(frames)
    assert "cannot be read" in frames.left_out["vaccine-s1.sft"]
    assert set(frames[Cost]["run"]) == {"vaccine-s0.sft"}


def test_an_unfinished_run_is_left_out(tmp_path):
    made = store(tmp_path, {"vaccine": 8}, (0,))
    writer = made.begin(header("tar-s0", "immunise", "tar", 0, {"name": "tar"}))
    assert load(made, None, KINDS).left_out == {"tar-s0": "it is running"}
    writer.fail("no memory")
    assert load(made, None, KINDS).left_out == {"tar-s0": "no memory"}


def test_of_runs_that_repeat_one_another_the_newest_is_shown(tmp_path):
    made = Store(tmp_path)
    for number, name in enumerate(("old", "new")):
        run = header(f"{name}.sft", "attack", "vaccine", 0, {"name": "vaccine"})
        write(made, run, attacked(8, 0, 4), KINDS)
        file = made.folder(run.id) / "run.json"
        made_at = {"created": f"2026-01-0{1 + number}T00:00:00+00:00"}
        file.write_text(json.dumps(json.loads(file.read_text()) | made_at))
    frames = load(made, None, KINDS)
    assert ids(frames) == {"new.sft"}
    assert frames.left_out == {"old.sft": "a newer run repeats it: new.sft"}


def test_settings_in_which_arms_and_attacks_differ_are_in_their_names(tmp_path):
    made = Store(tmp_path)
    for rho in (2.0, 5.0):
        for lr in (1e-4, 3e-4):
            defence = {"name": "vaccine", "rho": rho, "fit": {"steps": 300}}
            run = header(f"v{rho}-{lr}", "attack", "vaccine", 0, defence,
                         attack={"name": "sft", "lr": lr, "steps": 96})  # fmt: skip
            write(made, run, attacked(8, 0, 4), KINDS)
    rows = load(made, None, KINDS)[Metric]
    assert set(rows["arm"]) == {"vaccine rho=2.0", "vaccine rho=5.0"}
    assert set(rows["attack"]) == {"sft lr=0.0001", "sft lr=0.0003"}


def test_runs_on_other_data_or_another_model_are_not_mixed(tmp_path):
    made = store(tmp_path, {"undefended": 8}, (0,))
    elsewhere = header("e.sft", "attack", "undefended", 0, None, hashes={"data": "f00df00df00d"})
    write(made, elsewhere, attacked(8, 0, 4), KINDS)
    other = header("m.sft", "attack", "undefended", 1, None, model="some/llama")
    write(made, other, attacked(8, 0, 4), KINDS)
    arms = set(load(made, None, KINDS)[Metric]["arm"])
    assert arms == {
        "undefended model=lab:base data=d", "undefended model=lab:base data=f00df00d",
        "undefended model=some/llama data=d",
    }  # fmt: skip


def test_alignment_seeds_are_seeds_and_not_other_models(tmp_path):
    made = Store(tmp_path)
    for seed in (0, 1):
        run = header(f"u{seed}.sft", "attack", "undefended", seed, None,
                     model=f"lab:aligned,seed={seed}")  # fmt: skip
        write(made, run, attacked(8, 0, 4), KINDS)
    assert set(load(made, None, KINDS)[Metric]["arm"]) == {"undefended"}


def test_frames_without_a_table_have_its_columns():
    rows = Frames()[Metric]
    assert not len(rows) and {"run", "arm", "attack", "seed", "value"} <= set(rows.columns)
    assert not len(in_order(rows, "step"))
