"""Studies end to end, on a lab model and seconds of work: resumed, killed, refused, stale."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from tests import small
from workbench import study as studies
from workbench.activations import HookedLM
from workbench.defences import DEFENCES, Vaccine
from workbench.errors import StoreBusyError, TrainingError
from workbench.execution import conduct
from workbench.models import load
from workbench.pillars import Thresholds
from workbench.recordings import Recording
from workbench.report import drift, kl_shares, show, table
from workbench.rows import Cost, EmbeddingDrift, Generation, Loss, Metric, Prompt, Token, TokenKL
from workbench.store import Store


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return conduct(small.study(), Store(tmp_path_factory.mktemp("runs")), jobs=1)


def numbers(store, runs):
    """Every measured number of some runs, but for the clock's."""
    frames = []
    for kind in (Metric, Cost, Loss, TokenKL, EmbeddingDrift, Generation):
        frame = store.read(kind, runs).drop(columns="seconds", errors="ignore")
        frames.append(frame.to_json(orient="records", double_precision=15))
    return frames


def test_every_unit_is_made_and_finished(outcome):
    assert outcome.made == 6 and not outcome.failed and not outcome.stale
    assert [(r.arm, r.kind) for r in outcome.runs] == [
        (arm, kind)
        for kind in ("immunise", "attack")
        for arm in ("undefended", "vaccine", "vaccine-control")
    ]


def test_curves_costs_losses_and_probes_are_where_they_should_be(outcome):
    store, run = outcome.store, outcome.runs[4]
    metrics = store.read(Metric, [run])
    assert sorted(metrics["step"].unique()) == [0, 1, 2, 3]
    assert {"harmfulness", "refused", "capability"} <= set(metrics["name"])
    assert metrics["split"].unique().tolist() == ["test"]
    costs = store.read(Cost, [run]).set_index("step")
    assert costs["samples"].to_dict() == {0: 0, 1: 4, 2: 8, 3: 12}
    assert costs["tokens"].is_monotonic_increasing
    assert sorted(store.read(Loss, [run])["step"]) == [1, 2, 3]
    assert sorted(store.read(TokenKL, [run])["step"].unique()) == [0, 3]
    assert set(store.read(EmbeddingDrift, [run])["site"]) == {"resid_post", "attn_module_out"}


def test_at_step_zero_of_an_attack_nothing_has_moved(outcome):
    for kind in (TokenKL, EmbeddingDrift):
        rows = outcome.store.read(kind, outcome.runs[3:])
        assert all(not values.any() for values in rows[rows["step"] == 0]["values"])
        assert any(values.any() for values in rows[rows["step"] == 3]["values"])


def test_rows_speak_of_prompts_and_tokens_that_are_there(outcome):
    store, run = outcome.store, outcome.runs[3]
    prompts, tokens = store.read(Prompt, [run]), store.read(Token, [run])
    assert set(store.read(Generation, [run])["example"]) <= set(prompts["example"])
    for _, row in store.read(TokenKL, [run]).iterrows():
        mine = tokens[tokens["example"] == row["example"]]
        assert (mine["role"] == "response").sum() == len(row["values"])


def test_activations_are_recorded_in_defence_and_attack(outcome):
    for run, steps in ((outcome.runs[1], (0, 4)), (outcome.runs[4], (0, 3))):
        recording = Recording(outcome.store.folder(run.id) / "activations")
        assert tuple(recording.steps) == steps
        values = recording.read(recording.sites[0], step=steps[-1])
        assert values.shape == (4, 96) and values.any()


def test_the_immunised_model_is_plain_hugging_face_and_attacks_keep_no_weights(outcome):
    folder = outcome.store.folder(outcome.runs[1].id)
    assert load(folder / "model").model.config.num_hidden_layers == 6
    for run in outcome.runs[3:]:
        names = [
            p.name for p in outcome.store.folder(run.id).rglob("*") if "activations" not in p.parts
        ]
        assert not any(n.endswith((".safetensors", ".bin", ".pt")) for n in names)
    assert not (folder / "checkpoint").exists()


def test_a_second_call_makes_nothing(outcome):
    again = conduct(small.study(), outcome.store, jobs=1)
    assert again.made == 0
    assert [r.id for r in again.runs] == [r.id for r in outcome.runs]


@pytest.mark.slow
def test_a_wider_study_makes_only_what_is_missing(outcome):
    wider = conduct(small.study(attacks={"sft": small.ATTACK, "again": small.ATTACK}),
                    outcome.store, jobs=1)  # fmt: skip
    assert wider.made == 3
    assert {r.attack["name"] for r in wider.runs if r.attack} == {"sft", "again"}


@pytest.mark.slow
def test_worker_processes_give_the_same_numbers(outcome, tmp_path):
    other = conduct(small.study(), Store(tmp_path), jobs=2)
    assert numbers(other.store, other.runs) == numbers(outcome.store, outcome.runs)


def test_runs_of_other_code_are_stale_and_never_mixed_in(outcome, monkeypatch):
    real = studies.code_of
    monkeypatch.setattr(studies, "code_of", lambda *m: "other " + real(*m))
    other = conduct(small.study(attacks={}, controls=False), outcome.store, jobs=1)
    assert other.made == 2
    assert {r.id for r in other.stale} == {r.id for r in outcome.runs[:2]}
    assert {r.id for r in other.runs}.isdisjoint(r.id for r in outcome.runs)


def test_two_studies_on_one_store(outcome):
    with outcome.store.lock(), pytest.raises(StoreBusyError, match="in use by process"):
        conduct(small.study(), outcome.store, jobs=1)


def test_a_unit_that_fails_is_named_and_the_others_go_on(tmp_path):
    from dataclasses import replace

    broken = replace(small.ATTACK, lr=1e30, optimiser="sgd")
    ended = conduct(small.study(attacks={"sft": small.ATTACK, "broken": broken}, defences={}),
                    Store(tmp_path), jobs=1)  # fmt: skip
    assert list(ended.failed) == ["undefended-s0"]
    assert "TrainingError" in ended.failed["undefended-s0"]
    states = {r.attack["name"]: r.state for r in ended.store.runs() if r.attack}
    assert states == {"sft": "finished", "broken": "failed"}


def test_a_tampered_run_is_reported_and_loses_nothing_else(outcome, tmp_path):
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(outcome.store.root, copy)
    victim = Store(copy).folder(outcome.runs[3].id)
    (victim / "metrics.parquet").write_bytes(b"not a table")
    from workbench.errors import RunError

    with pytest.raises(RunError, match="Delete the run folder"):
        table(Store(copy), outcome.runs, Thresholds())
    shutil.rmtree(victim)
    mended = conduct(small.study(), Store(copy), jobs=1)
    assert mended.made == 1
    assert numbers(mended.store, mended.runs) == numbers(outcome.store, outcome.runs)


def test_the_report_is_judged_from_rows_alone(outcome):
    lines = table(outcome.store, outcome.runs, Thresholds(phi=0.5))
    assert [(x.arm, x.seed, x.attack) for x in lines] == [
        ("undefended", 0, "sft"), ("vaccine", 0, "sft"), ("vaccine-control", 0, "sft")
    ]  # fmt: skip
    assert str(lines[0].outcome.resistance) == "held to 3"
    assert lines[1].refused < 0.5  # four steps do not align a base model, and the table says so
    shares = kl_shares(outcome.store, outcome.runs)
    assert set(shares) == {"undefended", "vaccine", "vaccine-control"}
    assert all(0 <= v <= 1 for values in shares.values() for v in values)
    frame = drift(outcome.store, outcome.runs)
    assert set(frame["group"]) == {"hazard", "benign"} and frame["layer"].max() == 5
    console = Console(width=150, record=True, file=io.StringIO())
    show(outcome.store, outcome.runs, Thresholds(), console)
    text = console.export_text()
    assert "vaccine-control" in text and "matched control" in text and "held to 3" in text


PATIENCE = 240
"""How long another process may take (s); machines are shared."""
RUN = """
import signal, sys
from pathlib import Path
from tests import small
from workbench.execution import conduct
from workbench.store import Store
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
    study = small.study(seeds=tuple(range(int(sys.argv[3]))))
    conduct(study, Store(Path(sys.argv[1])), jobs=int(sys.argv[2]))
"""


def settled(store, seconds=20):
    """States of all runs once no killed worker is left; the system takes a moment to end them."""
    until = time.monotonic() + seconds
    while "running" in (states := {run.state for run in store.runs()}):
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    return states


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_moments_and_rerun_it_ends_in_the_same_numbers(outcome, tmp_path, jobs):
    rng = random.Random(jobs)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    kills = 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "runs"), str(jobs), "1"],
            env=os.environ | {"PYTHONPATH": os.getcwd()}, start_new_session=True,
        )  # fmt: skip
        try:
            child.wait(timeout=rng.uniform(3, 12))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
        assert settled(Store(tmp_path / "runs")) <= {"finished", "interrupted", "corrupt"}
    assert kills >= 1
    time.sleep(0.2)
    ended = conduct(small.study(), Store(tmp_path / "runs"), jobs=1)
    assert not ended.failed
    assert numbers(ended.store, ended.runs) == numbers(outcome.store, outcome.runs)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    child = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "runs"), "1", "30"],  # minutes of work
        env=os.environ | {"PYTHONPATH": os.getcwd()}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    store = Store(tmp_path / "runs")
    until = time.monotonic() + PATIENCE
    while not store.find(state="finished") and time.monotonic() < until:
        time.sleep(0.05)
    kept = {r.id for r in store.find(state="finished")}
    for _ in range(4):  # Python drops an interrupt that falls into a weak reference's callback
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            said = child.communicate(timeout=45)[1]
            break
    else:
        child.kill()
        pytest.fail("Ctrl-C does not end it")
    assert "KeyboardInterrupt" in said
    assert kept <= {r.id for r in store.find(state="finished")}
    assert all(r.state in ("finished", "interrupted") for r in store.runs())


def test_headers_hold_what_is_needed_to_make_a_run_again(outcome):
    header = json.loads((outcome.store.folder(outcome.runs[4].id) / "run.json").read_text())
    assert header["defence"]["name"] == "vaccine" and header["defence"]["rho"] == 1.0
    assert header["attack"]["name"] == "sft" and header["seed"] == 0
    wanted = {"config", "data", "start", "tokenizer", "code", "libraries"}
    assert set(header["hashes"]) == wanted and "message" in header["template"]
    assert header["versions"]["torch"].startswith("2.")
    assert isinstance(pd.Timestamp(header["finished"]), pd.Timestamp)


def test_the_example_in_the_docs_reads_a_store(outcome):
    docs = Path(__file__).parents[1] / "docs" / "runs.md"
    example = re.search(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)[1]
    scope: dict = {}
    exec(example.replace("runs/demo", str(outcome.store.root)).replace("step=96", "step=3"), scope)
    assert len(scope["curves"]) and scope["hidden"].shape == (4, 96)


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_runs_in_a_study_and_says_what_its_terms_were(name, tmp_path):
    study = small.study(
        defences={name: DEFENCES[name](fit=small.FIT)}, undefended=False, controls=False
    )
    outcome = conduct(study, Store(tmp_path), jobs=1)
    assert not outcome.failed
    made, attack = outcome.runs
    assert made.defence["name"] == attack.defence["name"] == name
    losses = outcome.store.read(Loss, [made])
    assert set(losses["term"]) <= set(DEFENCES[name].scores) and losses["value"].notna().all()
    assert sorted(losses["step"].unique()) == [1, 2, 3, 4]
    noted = [e for e in outcome.store.events(made.id) if e["event"] == "micro_batch"]
    assert [(e["step"], e["examples"]) for e in noted] == [(1, small.FIT.batch_size)]


@pytest.fixture
def memory_for_two(monkeypatch):
    """A machine that trains on at most two examples at a time."""
    whole = HookedLM.__call__

    def short_of_memory(self, batch, **kwargs):
        if len(batch) > 2 and self.model.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(self, batch, **kwargs)

    monkeypatch.setattr(HookedLM, "__call__", short_of_memory)


@pytest.mark.usefixtures("memory_for_two")
def test_a_run_notes_when_memory_made_its_parts_smaller(tmp_path):
    control = small.study().defences["vaccine"].matched_control()
    study = small.study(defences={"plain": control}, undefended=False, controls=False)
    outcome = conduct(study, Store(tmp_path), jobs=1)
    assert not outcome.failed
    for run in outcome.runs:
        noted = [e for e in outcome.store.events(run.id) if e["event"] == "micro_batch"]
        assert [e["examples"] for e in noted] == [2]


@pytest.mark.usefixtures("memory_for_two")
def test_a_coupled_method_short_of_memory_fails_and_says_which_size_fits(tmp_path):
    outcome = conduct(small.study(undefended=False, controls=False), Store(tmp_path), jobs=1)
    assert "micro_batch=2" in outcome.failed["vaccine-s0"]
    (run,) = Store(tmp_path).find(kind="immunise")
    assert run.state == "failed" and "out of memory with 4 examples" in run.error


def test_a_gradient_that_is_not_finite_marks_the_run(tmp_path, monkeypatch):
    def broken(self, lm, batch, context=None):
        raise TrainingError("Vaccine's gradient is not finite; the step was not taken.")

    monkeypatch.setattr(Vaccine, "worst_drift", broken)
    outcome = conduct(small.study(undefended=False, controls=False), Store(tmp_path), jobs=1)
    (run,) = Store(tmp_path).find(kind="immunise")
    assert run.state == "failed" and "not finite" in run.error
    assert "not finite" in outcome.failed["vaccine-s0"]
