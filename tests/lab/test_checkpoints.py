"""Names, the cache, and several processes asking at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import InvalidValueError, ModelError, TrainingError, UnknownNameError
from workbench.lab import build, checkpoints
from workbench.lab.checkpoints import CheckpointName, checkpoint_path, location, parse


@given(st.sampled_from(sorted(checkpoints.CHECKPOINTS)), *[st.integers(0, 99)] * 3)
def test_a_name_is_read_as_it_is_written(checkpoint, world, base, seed):
    name = CheckpointName(checkpoint, world, base)
    if name.aligned:
        name = CheckpointName(checkpoint, world, base, seed)
    assert parse(str(name)) == name


def test_options_in_any_order():
    assert parse("lab:aligned,seed=2,world=1") == CheckpointName("aligned", world=1, seed=2)
    assert parse("lab:oracle,seed=2").start == CheckpointName("oracle-base")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("lab:alinged", UnknownNameError, "Did you mean 'aligned'"),
        ("lab:", UnknownNameError, "Known: aligned, base, oracle, oracle-base"),
        ("lab:aligned,sed=2", UnknownNameError, "no lab option called 'sed'. Did you mean 'seed'"),
        ("lab:aligned,seed=two", InvalidValueError, "must be a whole number, not 'two'"),
        ("lab:aligned,seed", InvalidValueError, "must be a whole number, not ''"),
        ("lab:aligned,seed=-1", InvalidValueError, "must be a whole number, not '-1'"),
        ("lab:base,seed=2", InvalidValueError, "give `base=...`"),
    ],
)
def test_bad_names_are_explained(name, error, message):
    with pytest.raises(error, match=message):
        checkpoint_path(name)


def test_shipped_checkpoints_are_not_built():
    assert checkpoint_path("lab:base") == checkpoint_path("lab:base,world=0,base=0")
    assert checkpoint_path("lab:aligned,seed=0") == checkpoints.SHIPPED / "aligned"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    assert location("lab:aligned,seed=3").parent.parent == tmp_path / "lab"
    names = ("lab:aligned,seed=3", "lab:aligned,seed=4", "lab:oracle,seed=3", "lab:base,base=1")
    assert len({location(n) for n in names}) == 4


def test_processes_that_ask_at_once_build_once(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    built = []

    def slow_build(out, base, world, *, seed, progress):
        time.sleep(0.2)
        out.mkdir()
        (out / "whole").touch()
        built.append(seed)

    monkeypatch.setattr(build, "build_aligned", slow_build)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(checkpoint_path, ["lab:aligned,seed=7"] * 4))
    assert built == [7]
    assert set(paths) == {location("lab:aligned,seed=7")}
    assert (paths[0] / "whole").exists()


def test_a_build_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))

    def failing_build(out, world, *, seed, progress):
        out.mkdir()
        (out / "half").touch()
        raise TrainingError("judgement is 0.500, needs 0.95")

    monkeypatch.setattr(build, "build_base", failing_build)
    with pytest.raises(TrainingError, match=r"needs 0\.95"):
        checkpoint_path("lab:base,base=9")
    assert not location("lab:base,base=9").exists()
    assert [p.name for p in location("lab:base,base=9").parent.iterdir() if p.is_dir()] == []


def test_a_damaged_installation_is_not_repaired_in_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    with pytest.raises(ModelError, match=r"'lab:base' should be in .*reinstall"):
        checkpoint_path("lab:base")
    assert not list(tmp_path.iterdir())
