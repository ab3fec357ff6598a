"""The format: what is written comes back, by anybody, after anything."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from workbench.errors import InvalidValueError, RecordingError, WorkbenchWarning
from workbench.recording import RecordingWriter
from workbench.recording_manifest import digest
from workbench.recordings import Recording, joined
from workbench.row_files import CHUNK_BYTES, HEADER_BYTES
from workbench.stored_tensors import read_torch

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def rows(n, width=4, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def make(folder, n=3, **kwargs):
    """Two steps of three examples; what was written, by step and site."""
    written = {}
    with RecordingWriter(folder, SITES, positions="response", **kwargs) as writer:
        for step in (0, 10):
            acts = {site: rows(3 * n, seed=step + i) for i, site in enumerate(SITES)}
            writer.append(step, ["a", "b", "c"], [n, 2 * n - 1, 1], acts)
            writer.flush()
            written |= {(step, site): x for site, x in acts.items()}
    return written


@pytest.mark.parametrize("dtype", TORCH)
def test_round_trip(tmp_path, dtype):
    written = make(tmp_path, dtype=dtype)
    recording = Recording(tmp_path)
    assert (recording.sites, recording.steps) == (SITES, (0, 10))
    assert recording.examples == ("a", "b", "c")
    assert recording.lengths(10) == {"a": 3, "b": 5, "c": 1}
    for (step, site), x in written.items():
        expected = x.to(TORCH[dtype]).float().numpy()
        whole = recording.read(site, step=step)
        assert whole.dtype == np.float32
        assert np.array_equal(whole, expected)
        assert np.array_equal(recording.read(site, step=step, example="b"), expected[3:8])
        tokens = recording.read(site, step=step, example=["c", "b"], rows=slice(0, 2))
        assert np.array_equal(tokens, expected[[8, 3, 4]])
        exact = read_torch(recording, site, step=step, example="b", rows=slice(-2, None))
        assert torch.equal(exact, x.to(TORCH[dtype])[6:8])
    recording.verify()


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("width", [1, 3, 4])
def test_closed_files_are_plain_safetensors(tmp_path, dtype, width):
    acts = {"hook_embed": rows(5, width)}
    with RecordingWriter(tmp_path, ["hook_embed"], positions="all", dtype=dtype) as writer:
        writer.append(0, ["a", "b"], [2, 3], acts)
    with safe_open(tmp_path / "hook_embed.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("acts"), acts["hook_embed"].to(TORCH[dtype]))
        assert file.get_tensor("offsets").tolist() == [0, 2, 5]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 700), min_size=1, max_size=4), min_size=1, max_size=5),
    width=st.sampled_from([1, 257, 1024]),
    dtype=st.sampled_from(sorted(TORCH)),
)
def test_any_sequence_of_appends_comes_back(tmp_path_factory, lengths, width, dtype):
    folder = tmp_path_factory.mktemp("recording")
    written = [rows(sum(ns), width, seed) for seed, ns in enumerate(lengths)]
    with RecordingWriter(folder, ["s"], positions="all", dtype=dtype) as writer:
        for step, (ns, x) in enumerate(zip(lengths, written, strict=True)):
            writer.append(step, [str(i) for i in range(len(ns))], ns, {"s": x})
    recording = Recording(folder)
    recording.verify()
    for step, (ns, x) in enumerate(zip(lengths, written, strict=True)):
        expected = x.to(TORCH[dtype]).float()
        assert np.array_equal(recording.read("s", step=step), expected.numpy())
        for i, part in enumerate(expected.split(ns)):
            assert np.array_equal(recording.read("s", step=step, example=str(i)), part.numpy())


def test_reader_never_imports_torch(tmp_path):
    make(tmp_path)
    code = (
        "import sys; from workbench.recordings import Recording; "
        f"x = Recording({str(tmp_path)!r}).read({SITES[0]!r}, step=10); "
        "assert x.shape == (9, 4); assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_does_not_exist_is_refused_with_what_does(tmp_path):
    make(tmp_path)
    recording = Recording(tmp_path)
    with pytest.raises(RecordingError, match=r"no site 'blocks.0.hook_resid_pots'. Did you mean"):
        recording.read("blocks.0.hook_resid_pots", step=0)
    with pytest.raises(RecordingError, match=r"no step 5. It has: 0, 10"):
        recording.read(SITES[0], step=5)
    with pytest.raises(RecordingError, match=r"no example 'z'. It has: a, b, c"):
        recording.read(SITES[0], step=0, example="z")
    with pytest.raises(RecordingError, match=r"manifest.json is missing"):
        Recording(tmp_path / "nowhere")


@pytest.mark.parametrize("at", [0, 17, -1])
def test_one_flipped_bit_is_found(tmp_path, at):
    make(tmp_path)
    path = tmp_path / f"{SITES[1]}.safetensors"
    data = bytearray(path.read_bytes())
    n = 2 * 9 * 4 * 2  # two steps of nine rows of four bf16 numbers
    data[HEADER_BYTES + (at % n)] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordingError, match="corrupt: checksum mismatch in chunk 0"):
        Recording(tmp_path).read(SITES[1], step=0)
    Recording(tmp_path).read(SITES[0], step=0)  # the other site is untouched


def test_only_the_chunks_that_are_read_are_verified(tmp_path):
    n = 3 * CHUNK_BYTES // 4096
    with RecordingWriter(tmp_path, ["s"], positions="all", dtype="fp32") as writer:
        writer.append(0, ["a", "b", "c"], [n // 3] * 3, {"s": rows(n, 1024)})
    path = tmp_path / "s.safetensors"
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + CHUNK_BYTES + 5)
        file.write(b"\xff\xff\xff")
    recording = Recording(tmp_path)
    recording.read("s", step=0, example="a")
    recording.read("s", step=0, example="c")
    with pytest.raises(RecordingError, match="chunk 1"):
        recording.read("s", step=0, example="b")
    with pytest.raises(RecordingError, match="chunk 1"):
        recording.verify()


def test_truncation_is_found(tmp_path):
    make(tmp_path)
    path = tmp_path / f"{SITES[0]}.safetensors"
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + 100])
    with pytest.raises(RecordingError, match="truncated: its manifest speaks of 18 rows"):
        Recording(tmp_path).read(SITES[0], step=10)
    path.unlink()
    with pytest.raises(RecordingError, match="cannot read"):
        Recording(tmp_path).read(SITES[0], step=10)


def rewrite(folder, change, sign=True):
    """Change a manifest by hand; signed, it looks as if a writer had written it so."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        del manifest["sha256"]
        manifest["sha256"] = digest(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(rows=17), "the entries cover 18 of 17 rows"),
        (lambda m: m["sites"][SITES[0]]["crc32"].append(1), "2 checksums for 144 bytes"),
        (lambda m: m.pop("layouts"), "KeyError"),
        (lambda m: m.update(layouts=[1]), "corrupt"),
        (lambda m: m.update(dtype="fp7"), "fp7"),
        (lambda m: m.update(schema_version=3), "schema version 3.*Update the workbench"),
        (lambda m: m.pop("chunk_bytes"), "corrupt or unreadable"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(tmp_path, change, message):
    make(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(RecordingError, match=message):
        Recording(tmp_path)
    (tmp_path / "manifest.json").write_text("{half")
    with pytest.raises(RecordingError, match="corrupt or unreadable"):
        Recording(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(model="another"),
        lambda m: m["layouts"][0]["examples"].reverse(),
        lambda m: m["entries"][0].__setitem__(0, 7),
        lambda m: m.pop("sha256"),
        lambda m: m.update(schema_version=1),
    ],
)
def test_a_manifest_that_says_something_else_than_was_written_is_refused(tmp_path, change):
    make(tmp_path)
    rewrite(tmp_path, change, sign=False)
    with pytest.raises(RecordingError, match="its digest does not match"):
        Recording(tmp_path)


def test_recordings_of_the_version_before_are_read(tmp_path):
    written = make(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text()) | {"schema_version": 1}
    del manifest["sha256"], manifest["panel"]
    path.write_text(json.dumps(manifest))
    expected = written[10, SITES[0]].bfloat16().float().numpy()
    assert np.array_equal(Recording(tmp_path).read(SITES[0], step=10), expected)


def unfinished(folder):
    """A writer that died: step 0 flushed, step 1 appended only."""
    writer = RecordingWriter(folder, ["s"], positions="all", model="m")
    writer.append(0, ["a"], [3], {"s": rows(3)})
    writer.flush()
    writer.append(1, ["a"], [3], {"s": rows(3, seed=1)})
    writer._writers["s"]._file.flush()  # the operating system has the bytes, the manifest not
    writer.abandon()


def test_a_crash_leaves_everything_before_the_last_flush(tmp_path):
    unfinished(tmp_path)
    with pytest.warns(WorkbenchWarning) as said:
        recording = Recording(tmp_path)
    (warning,) = said
    assert str(warning.message) == Recording(tmp_path, warn=False).unfinished
    assert recording.steps == (0,)
    assert not recording.manifest.complete
    assert "3 rows of 1 examples at 1 steps are readable" in recording.unfinished
    assert "24 bytes behind the last flush were torn off" in recording.unfinished
    expected = rows(3).bfloat16().float().numpy()
    assert np.array_equal(recording.read("s", step=0), expected)


def test_an_interrupted_recording_is_continued(tmp_path):
    unfinished(tmp_path)
    with pytest.warns(WorkbenchWarning, match="after 3 rows. 24 bytes behind the last flush"):
        writer = RecordingWriter(tmp_path, ["s"], positions="all", model="m", resume=True)
    with writer:
        assert writer.steps == {0}
        writer.append(1, ["a"], [3], {"s": rows(3, seed=2)})
    recording = Recording(tmp_path)
    recording.verify()
    assert recording.manifest.complete and recording.unfinished is None
    for step, seed in ((0, 0), (1, 2)):
        expected = rows(3, seed=seed).bfloat16().float().numpy()
        assert np.array_equal(recording.read("s", step=step), expected)
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert file.get_tensor("acts").shape == (6, 4)


def test_nothing_torn_stays_behind_less_that_was_added(tmp_path):
    unfinished(tmp_path)
    with pytest.warns(WorkbenchWarning):
        writer = RecordingWriter(tmp_path, ["s"], positions="all", model="m", resume=True)
    writer.close()
    Recording(tmp_path).verify()
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert file.get_tensor("acts").shape == (3, 4)


def test_a_complete_recording_is_continued_too(tmp_path):
    make(tmp_path)
    kwargs = {"positions": "response", "resume": True}
    with RecordingWriter(tmp_path, SITES, **kwargs) as writer:
        writer.append(20, ["a"], [1], {site: rows(1, seed=7) for site in SITES})
    assert Recording(tmp_path).steps == (0, 10, 20)
    Recording(tmp_path).verify()


def test_continued_is_not_complete_until_closed_again(tmp_path):
    make(tmp_path)
    writer = RecordingWriter(tmp_path, SITES, positions="response", resume=True)
    writer.flush()
    assert not Recording(tmp_path).manifest.complete
    writer.close()
    assert Recording(tmp_path).manifest.complete


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    writer = RecordingWriter(tmp_path, ["s"], positions="all")
    (tmp_path / "s.safetensors").symlink_to("/dev/full")
    with pytest.raises(RecordingError, match="No space left on device"):
        writer.append(0, ["a"], [2], {"s": rows(2)})


@pytest.mark.filterwarnings("error")
def test_whoever_opens_a_whole_recording_is_not_warned(tmp_path, monkeypatch):
    make(tmp_path / "whole")
    Recording(tmp_path / "whole")
    writer = RecordingWriter(tmp_path / "r", ["s"], positions="all")
    writer.append(0, ["a"], [2], {"s": rows(2)})
    writer.flush()

    def completed_meanwhile(self):
        writer.close()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "_being_written", completed_meanwhile)
        recording = Recording(tmp_path / "r")
    assert recording.unfinished is None
    recording.verify()


@pytest.mark.filterwarnings("error")
def test_a_growing_recording_can_be_read(tmp_path):
    writer = RecordingWriter(tmp_path, ["s"], positions="all")
    for step in range(3):
        writer.append(step, ["a"], [2], {"s": rows(2, seed=step)})
        writer.flush()
        recording = Recording(tmp_path)
        assert recording.unfinished.startswith("Still being written")
        writer.append(step + 100, ["a"], [2], {"s": rows(2)})  # not flushed yet
        assert step in recording.steps
        assert step + 100 not in recording.steps
        recording.verify()
    writer.close()


def test_what_is_unfinished_is_asked_of_the_disk_as_it_is_now(tmp_path):
    writer = RecordingWriter(tmp_path, ["s"], positions="all", model="m")
    writer.append(0, ["a"], [2], {"s": rows(2)})
    writer.flush()
    begun = Recording(tmp_path)
    writer.append(1, ["a"], [2], {"s": rows(2)})
    writer.flush()
    writer.append(2, ["a"], [2], {"s": rows(2)})
    writer._writers["s"]._file.flush()
    writer.abandon()
    torn = r"stopped.*; 2 rows of 1.* 16 bytes behind the last flush.*Open it again"
    assert re.match(f"Its writer {torn}", begun.unfinished)
    with pytest.warns(WorkbenchWarning):
        writer = RecordingWriter(tmp_path, ["s"], positions="all", model="m", resume=True)
    assert begun.unfinished.startswith("Still being written; so far 2 rows")
    writer.close()
    assert re.match(r"Completed since.* 2 rows of 1 .*Open it again", begun.unfinished)
    assert "torn" not in begun.unfinished and begun.steps == (0,)
    begun.verify()
    again = Recording(begun.path)
    assert again.unfinished is None and again.steps == (0, 1)


def test_completed_with_no_more_rows_nothing_is_said_to_be_torn(tmp_path):
    writer = RecordingWriter(tmp_path, ["s"], positions="all")
    writer.append(0, ["a"], [2], {"s": rows(2)})
    writer.flush()
    recording = Recording(tmp_path)
    writer.close()
    assert recording.unfinished.startswith("Completed since it was opened")
    assert "torn" not in recording.unfinished


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "already holds a recording.*resume=True"),
        ({"resume": True, "model": "x"}, "its model is 'm', not 'x'"),
        ({"resume": True, "model": "m", "dtype": "fp32"}, "its dtype is 'bf16', not 'fp32'"),
    ],
)
def test_a_recording_that_does_not_fit_is_not_touched(tmp_path, kwargs, message):
    unfinished(tmp_path)
    before = (tmp_path / "s.safetensors").read_bytes()
    with pytest.raises(RecordingError, match=message):
        RecordingWriter(tmp_path, ["s"], positions="all", **kwargs)
    with pytest.raises(RecordingError, match="it records s; asked for were t"):
        RecordingWriter(tmp_path, ["t"], positions="all", model="m", resume=True)
    assert (tmp_path / "s.safetensors").read_bytes() == before


def test_appends_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    writer = RecordingWriter(tmp_path, ["s"], positions="all", dtype="fp16")
    writer.append(0, ["a"], [2], {"s": rows(2)})
    for args, message in [
        ((1, ["a"], [2], {"t": rows(2)}), "given activations of t; this recording is of s"),
        ((1, ["a"], [3], {"s": rows(2)}), "do not fit"),
        ((1, ["a", "b"], [2], {"s": rows(2)}), "do not fit"),
        ((0, ["a"], [2], {"s": rows(2)}), "example 'a' is recorded twice at step 0"),
        ((1, ["a", "a"], [1, 1], {"s": rows(2)}), "example 'a' is recorded twice"),
        ((1, ["a"], [2], {"s": 1e5 * rows(2)}), "beyond what fp16 can hold.*bf16"),
        ((1, ["a"], [2], {"s": rows(2, width=5)}), "width"),
    ]:
        with pytest.raises(InvalidValueError, match=message):
            writer.append(*args)
    writer.close()
    recording = Recording(tmp_path)
    recording.verify()
    assert recording.steps == (0,)


def test_neighbouring_spans_are_read_together():
    assert joined([(0, 3), (3, 5), (7, 9), (9, 9)]) == [(0, 5), (7, 9)]
    assert joined([]) == []
