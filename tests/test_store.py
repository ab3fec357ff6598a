"""The store: what goes in comes out, and nothing that happens to a writer can confuse a reader."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench import files, tables
from workbench.errors import InvalidValueError, RunError, StoreBusyError, UnknownNameError
from workbench.provenance import ROOT
from workbench.rows import KINDS, Loss, Metric, Row, TokenKL
from workbench.store import RunHeader, Store, run_id


def header(run="vaccine-s0-3fa9c1d2", **more) -> RunHeader:
    return RunHeader(id=run, **{"kind": "immunise", "arm": "vaccine"} | more)


def metric(step=0, **more) -> Metric:
    values = {"stage": "attack", "split": "test", "domain": "defended", "name": "harmfulness"}
    return Metric(**values | {"step": step, "value": step / 10, "n": 5} | more)


def kl(values) -> TokenKL:
    who = {"stage": "attack", "step": 3, "reference": "aligned", "example": "x", "group": "hazard"}
    return TokenKL(**who, measure="forward_kl", values=values)


def forged(row: Row, **wrong) -> Row:
    """A row with values that its class does not allow (tests check rows as they are made)."""
    row = replace(row)
    for name, value in wrong.items():
        object.__setattr__(row, name, value)
    return row


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


# --- round trip -------------------------------------------------------------------------------


def column(annotation) -> st.SearchStrategy:
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is list:
        return st.lists(st.floats(width=32, allow_nan=False), max_size=6)
    return {
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(),
        bool: st.booleans(),
    }[annotation]


def values_of(kind: type[Row]) -> st.SearchStrategy[dict]:
    hints = get_type_hints(kind)
    return st.fixed_dictionaries({f.name: column(hints[f.name]) for f in fields(kind)})


def same(a: object, b: object) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=isinstance(a, float | list))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_kind_of_row_survives_the_round_trip(kind, data, tmp_path_factory):
    rows = [kind(**values) for values in data.draw(st.lists(values_of(kind), max_size=5))]
    cut = data.draw(st.integers(0, len(rows)))
    store = Store(tmp_path_factory.mktemp("store"))
    with store.begin(header()) as run:
        run.append(rows[:cut])
        run.flush()
        run.append(rows[cut:])
    read = store.read(kind)
    assert list(read) == ["run", *(f.name for f in fields(kind))]
    assert len(read) == len(rows)
    for given_, found in zip(rows, read.to_dict("records"), strict=True):
        assert all(same(getattr(given_, f.name), found[f.name]) for f in fields(kind))


def test_lists_are_float32_and_the_version_is_in_the_file(store):
    with store.begin(header()) as run:
        run.append(kl([0.0, 1.0]))
    assert store.read(TokenKL)["values"][0].dtype == np.float32
    meta = pq.read_schema(store.folder(run.header.id) / "token_kl.parquet").metadata
    assert meta[b"schema_version"] == b"1"


def test_a_missing_table_is_an_empty_frame_with_typed_columns(store):
    empty = store.read(Metric)
    with store.begin(header()) as run:
        run.append(metric())
    full = store.read(Metric)
    assert empty.empty and dict(empty.dtypes) == dict(full.dtypes)


def test_reading_takes_finished_runs_unless_others_are_named(store):
    with store.begin(header("done")) as run:
        run.append(metric(1))
    live = store.begin(header("live"))
    live.append(metric(2))
    live.flush()
    assert list(store.read(Metric)["run"]) == ["done"]
    both = store.read(Metric, ["live", store.get("done"), "live"])
    assert list(both["run"]) == ["live", "done"]
    live.finish()


# --- validation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"value": "high"}, "'value'"),
        ({"value": None}, "'value'"),
        ({"value": True}, "'value'"),
        ({"step": 1.5}, "'step'"),
        ({"step": True}, "'step'"),
        ({"stage": "defense"}, "'stage'"),
        ({"domain": 3}, "'domain'"),
        ({"domain": "\ud800"}, "cannot be stored"),
        ({"step": 2**70}, "cannot be stored"),
    ],
)
def test_a_wrong_value_is_refused_with_its_column(store, wrong, names):
    with store.begin(header()) as run, pytest.raises(InvalidValueError, match=names):
        run.append([metric(), forged(metric(), **wrong)])
    assert store.read(Metric).empty  # neither row of a refused call is kept


@pytest.mark.parametrize(
    "values", [["a"], [None], "12", 3.0, [[1.0]], np.ones((2, 2)), [True], [1e300]]
)
def test_a_list_column_takes_numbers_only(store, values):
    with store.begin(header()) as run, pytest.raises(InvalidValueError, match="'values'"):
        run.append(forged(kl([]), values=values))


def test_infinities_and_nan_are_kept_as_they_are(store):
    with store.begin(header()) as run:
        run.append([kl([float("inf"), float("nan")]), metric(value=float("nan"))])
    assert np.isinf(store.read(TokenKL)["values"][0][0])
    assert np.isnan(store.read(Metric)["value"][0])


# --- versions ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Newer(Metric):
    schema_version: ClassVar[int] = 2
    extra: int = 0


def test_a_newer_table_asks_for_an_upgrade_and_an_older_one_for_a_new_run(store):
    with store.begin(header("new")) as run:
        run.append(Newer(**vars(metric())))
    with pytest.raises(RunError, match="Upgrade the workbench"):
        store.read(Metric)
    with store.begin(header("old")) as run:
        run.append(metric())
    with pytest.raises(RunError, match="does not have the columns"):
        store.read(Newer, ["old"])


def test_a_newer_header_is_listed_and_asks_for_an_upgrade(store):
    store.begin(header()).finish()
    file = store.folder(header().id) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}))
    (found,) = store.runs()
    assert found.state == "corrupt" and "upgrade the workbench" in found.error


# --- the life of a run ------------------------------------------------------------------------


def test_a_run_goes_from_running_to_finished_with_its_header(store):
    given_ = header(seed=3, hashes={"code": "ab"}, parents=["p"], defence={"name": "vaccine"})
    run = store.begin(given_)
    assert store.get(given_.id).state == "running"
    run.finish()
    found = store.get(given_.id)
    assert found.state == "finished" and found.seconds >= 0 and found.created <= found.finished
    for name in ("id", "kind", "arm", "seed", "hashes", "parents", "defence"):
        assert getattr(found, name) == getattr(given_, name)


def test_a_finished_run_never_changes(store):
    run = store.begin(header())
    run.finish()
    with pytest.raises(RunError, match="never changes"):
        store.begin(header())
    for change in (lambda: run.append(metric()), run.flush, run.finish, lambda: run.event({})):
        with pytest.raises(RunError, match="is finished"):
            change()


def test_an_exception_is_recorded_and_goes_on(store):
    with pytest.raises(ZeroDivisionError), store.begin(header()) as run:
        run.append(metric())
        _ = 1 / 0
    found = store.get(header().id)
    assert found.state == "failed" and found.error == "ZeroDivisionError: division by zero"
    assert store.read(Metric).empty and len(store.read(Metric, [found])) == 1


def test_ctrl_c_makes_an_interrupted_run(store):
    with pytest.raises(KeyboardInterrupt), store.begin(header()):
        raise KeyboardInterrupt
    assert store.get(header().id).state == "interrupted"


def test_an_unfinished_run_is_redone_but_keeps_what_training_resumes_from(store):
    run = store.begin(header())
    run.append(metric())
    run.path("checkpoint").mkdir()
    (run.path("checkpoint") / "step-3").write_text("weights")
    run.path("activations").mkdir()
    run.path("model").mkdir()
    run.event({"event": "old"})
    run.fail("the machine was needed")
    with store.begin(header()) as again:
        assert (again.path("checkpoint") / "step-3").read_text() == "weights"
        assert again.path("activations").exists() and not again.path("model").exists()
        assert not list(again.folder.glob("*.parquet"))
    assert store.events(header().id) == [] and store.get(header().id).state == "finished"


def test_nothing_is_visible_before_a_flush(store):
    run = store.begin(header())
    run.append([metric(i) for i in range(3)])
    assert store.read(Metric, [header().id]).empty
    run.flush()
    run.append(metric(3))
    assert list(store.read(Metric, [header().id])["step"]) == [0, 1, 2]
    run.finish()
    assert list(store.read(Metric)["step"]) == [0, 1, 2, 3]


def test_status_and_events_read_back(store):
    run = store.begin(header())
    assert store.status(header().id) == {} and store.events(header().id) == []
    run.status(step=2, total=10, seconds_left=4.0, phase="attack")
    run.event({"event": "evaluated", "step": 2})
    status, (event,) = store.status(header().id), store.events(header().id)
    assert (status["step"], status["total"], status["phase"]) == (2, 10, "attack")
    assert event["event"] == "evaluated" and "time" in event
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'{"event": "cut sho')
    assert len(store.events(header().id)) == 1
    run.finish()


def test_finding_runs_by_header_fields(store):
    for i in range(3):
        store.begin(header(f"run-{i}", seed=i % 2)).finish()
    assert [r.id for r in store.find(seed=0, state="finished")] == ["run-0", "run-2"]
    with pytest.raises(UnknownNameError, match="Did you mean 'seed'"):
        store.find(sed=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'run-1'"):
        store.get("run-1x")


# --- two writers ------------------------------------------------------------------------------


def test_two_writers_of_one_run(store):
    run = store.begin(header())
    with pytest.raises(StoreBusyError, match=f"process {os.getpid()} on "):
        store.begin(header())
    with store.begin(header("another")):
        pass
    run.finish()


def test_two_studies_on_one_store(store):
    busy = pytest.raises(StoreBusyError, match="finished work is kept")
    with store.lock(), busy, Store(store.root).lock():
        pass
    with store.lock():
        pass


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit, f"{path} never appeared"
        time.sleep(0.01)


def start(script: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_lock_of_another_process_dies_with_it(store):
    script = """if True:
        import sys, time
        from pathlib import Path
        from workbench.store import Store
        with Store(sys.argv[1]).lock():
            Path(sys.argv[1], "ready").touch()
            time.sleep(60)
    """
    other = start(script, store.root)
    try:
        wait_for(store.root / "ready")
        who = f"process {other.pid} on .*, started 20"
        with pytest.raises(StoreBusyError, match=who), store.lock():
            pass
    finally:
        other.kill()
        other.wait()
    with store.lock():
        pass


WRITERS = """if True:
    import os, sys
    from workbench.rows import Metric
    from workbench.store import RunHeader, Store

    def metric(step, k):
        return Metric(stage="attack", step=step, split="test", domain="d", name=f"m{k}",
                      value=0.0, n=1)

    def write(root):
        store = Store(root)
        for turn in range(10_000):
            with store.begin(RunHeader(id=f"run-{turn:05d}", kind="attack")) as run:
                for step in range(4):
                    run.append([metric(step, k) for k in range(5)])
                    run.flush()
                    run.event({"step": step})
                    run.status(step=step, total=4)

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            write(line.strip())
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)
"""


def check_consistent(store: Store) -> None:
    """No torn table, no half-written header: only whole flushes, and only known states."""
    for run in store.runs():
        assert run.state != "corrupt" or "killed as it began" in run.error
        rows = store.read(Metric, [run]).groupby("step")["name"].apply(sorted)
        assert all(names == [f"m{k}" for k in range(5)] for names in rows)
        if run.state == "finished":
            assert list(rows.index) == [0, 1, 2, 3]
        assert set(store.status(run.id)) <= {"time", "step", "total", "seconds_left"}
        assert all(set(event) == {"time", "step"} for event in store.events(run.id))


def test_kill_9_at_any_moment_leaves_a_readable_store(tmp_path):
    chance = random.Random(0)
    states = set()
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as writers:
        for moment in range(20):
            store = Store(tmp_path / f"{moment}")
            print(store.root, file=writers.stdin, flush=True)
            pid = int(writers.stdout.readline())
            limit = time.monotonic() + chance.uniform(0.01, 0.1)
            while time.monotonic() < limit:
                check_consistent(store)
            os.kill(pid, signal.SIGKILL)
            assert writers.stdout.readline() == "gone\n"
            check_consistent(store)
            states |= {run.state for run in store.runs()}
            redo_unfinished(store)
        writers.stdin.close()
    assert "running" not in states and {"interrupted", "finished"} <= states


def redo_unfinished(store: Store) -> None:
    """What the same command does when it is given again."""
    for run in store.runs():
        if run.state != "finished":
            with store.begin(header(run.id)) as again:
                again.append([metric(s, name=f"m{k}") for s in range(4) for k in range(5)])
    check_consistent(store)
    assert {run.state for run in store.runs()} <= {"finished"}


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"id": 3}',
        b'{"id": "broken"}',
        b'{"id": "broken", "kind": "attack", "colour": 1}',
        b'{"id": "broken", "kind": "attack", "state": "well"}',
        b'{"id": "broken", "kind": "attack", "seed": true}',
        b'{"id": "broken", "kind": "attack", "hashes": []}',
        b'{"id": "other", "kind": "attack"}',
        b"[" * 100_000,
    ],
)
def test_a_corrupt_header_is_listed_with_the_reason_and_never_overwritten(store, text):
    store.begin(header("whole")).finish()
    (store.root / "broken").mkdir()
    (store.root / "broken" / "run.json").write_bytes(text)
    states = {run.id: run for run in store.runs()}
    assert states["whole"].state == "finished"
    assert states["broken"].state == "corrupt" and "run.json" in states["broken"].error
    with pytest.raises(RunError, match="Delete"):
        store.begin(header("broken"))
    assert (store.root / "broken" / "run.json").read_bytes() == text


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    ),
    name=st.sampled_from([f.name for f in fields(RunHeader)]),
)
def test_no_json_can_break_the_listing(value, name, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    (store.root / "x").mkdir()
    content = {"id": "x", "kind": "attack", "created": "", name: value}
    (store.root / "x" / "run.json").write_text(json.dumps(content))
    (found,) = store.runs()
    assert found.id == "x"


def test_a_folder_left_by_a_kill_at_the_first_moment_is_taken_over(store):
    (store.root / "early").mkdir(parents=True)
    assert store.get("early").state == "corrupt"
    store.begin(header("early")).finish()
    assert store.get("early").state == "finished"


def test_tables_without_a_header_are_not_overwritten(store):
    (store.root / "odd").mkdir(parents=True)
    (store.root / "odd" / "metrics.parquet").write_bytes(b"precious")
    with pytest.raises(RunError, match="Delete it"):
        store.begin(header("odd"))


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "other"])
def test_a_corrupt_table_names_itself_and_the_way_out(store, damage):
    with store.begin(header()) as run:
        run.append([metric(i, domain="d" * i) for i in range(200)])
    file = run.folder / "metrics.parquet"
    data = bytearray(file.read_bytes())
    data[40] ^= 0xFF
    whole = file.read_bytes()
    if damage == "other":
        pq.write_table(pa.table({"a": [1]}), file)
    else:
        file.write_bytes({"cut": whole[:-20], "empty": b"", "flip": bytes(data)}[damage])
    with pytest.raises(RunError, match=r"metrics\.parquet cannot be read.*Delete the run folder"):
        store.read(Metric)


@pytest.mark.parametrize(
    "run", ["../x", "/etc/x", "a/b", "", ".", "..", ".hidden", "a\0b", "x" * 200, "a\nb", "ä", "-x"]
)
def test_a_hostile_id_never_leaves_the_store(store, run):
    for call in (store.folder, store.get, lambda r: store.begin(header(r)), store.status):
        with pytest.raises(InvalidValueError, match="cannot be a run's id"):
            call(run)
    assert not store.root.exists()


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", ".", "a/../.."])
def test_a_hostile_file_name_never_leaves_the_run(store, name):
    with store.begin(header()) as run, pytest.raises(InvalidValueError, match="inside the run"):
        run.path(name)


def test_a_store_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        Store(tmp_path / "file")


# --- a disk that refuses ----------------------------------------------------------------------


def refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_old_table_and_says_what_to_do(store, monkeypatch):
    run = store.begin(header())
    run.append(metric(0))
    run.flush()
    run.append(metric(1))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse)
        with pytest.raises(RunError, match=r"No space left.*same command again"):
            run.flush()
    assert list(store.read(Metric, [header().id])["step"]) == [0]
    assert not list(run.folder.glob(files.PARTIAL + "*"))
    run.finish()  # there is room again: nothing was lost
    assert list(store.read(Metric)["step"]) == [0, 1]


def test_a_disk_that_stays_full_frees_the_run_and_keeps_the_first_error(store, monkeypatch):
    raises = pytest.raises(ZeroDivisionError)
    with monkeypatch.context() as patch, raises as caught, store.begin(header()) as run:
        run.append(metric())
        patch.setattr(files.os, "fsync", refuse)
        _ = 1 / 0
    assert "could not be brought up to date" in caught.value.__notes__[0]
    assert store.get(header().id).state == "interrupted"
    store.begin(header()).finish()


def test_finishing_on_a_full_disk_is_a_failed_run(store, monkeypatch):
    calls = []

    def write(data, path):
        calls.append(path)
        raise RunError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", write)
        with pytest.raises(RunError, match="No space left"), store.begin(header()) as run:
            run.append(metric())
    assert calls and store.get(header().id).state == "failed"
    store.begin(header()).finish()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    store = Store(tmp_path / "runs")
    assert store.runs() == []
    for attempt in (lambda: store.begin(header()), store.lock().__enter__):
        with pytest.raises(RunError, match="make the folder writable"):
            attempt()


def test_a_read_only_file_system(tmp_path, monkeypatch):
    """The same for root, whom folder permissions do not stop."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = Store(tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for attempt in (lambda: store.begin(header()), store.lock().__enter__):
            with pytest.raises(RunError, match="Read-only file system"):
                attempt()
    assert store.find(state="finished") == []


def test_a_store_is_tried_before_the_work_and_nothing_is_made(tmp_path):
    Store(tmp_path / "a" / "b").require_writable()
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*file.b.*Choose another store"):
        Store(tmp_path / "file" / "b").require_writable()


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "runs")
    for attempt in (lambda: store.begin(header()), store.lock().__enter__):
        with pytest.raises(RunError, match="Choose another"):
            attempt()


# --- ids --------------------------------------------------------------------------------------


def test_ids_are_readable_and_differ_with_what_the_run_depends_on():
    a = run_id("vaccine-s0", {"config": "1", "code": "2"})
    assert a.startswith("vaccine-s0-") and len(a) == len("vaccine-s0-") + 8
    assert a == run_id("vaccine-s0", {"code": "2", "config": "1"})
    assert a != run_id("vaccine-s0", {"config": "1", "code": "3"})
    with pytest.raises(InvalidValueError):
        run_id("../vaccine")


def test_losses_and_metrics_are_kept_apart(store):
    loss = Loss(stage="defence", step=1, term="align", value=1.0, lr=1e-3, grad_norm=2.0)
    with store.begin(header()) as run:
        run.append([metric(), loss, replace(metric(), step=2)])
    assert len(store.read(Metric)) == 2 and len(store.read(Loss)) == 1
