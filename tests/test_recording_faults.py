"""Fault campaigns: whatever happens to a recording, what is read is right or refused.

Writers are killed, disks fill up, bytes flip, files end early. The reader's answer is compared with
what was written, number by number: an error that says so is fine, other numbers never.
"""

import errno
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.activations.models import batch
from workbench import row_files
from workbench.errors import RecordingError, RunError, WorkbenchWarning
from workbench.recording import Recorder
from workbench.recording_writer import RecordingWriter
from workbench.recordings import Recording
from workbench.row_files import HEADER_BYTES

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
EXAMPLES, LENGTHS, WIDTH, STEPS = ("a", "b", "c"), (3, 1, 5), 6, 4
KILLS = 24
FLIPS = 120
pytestmark = pytest.mark.filterwarnings("ignore:Its writer stopped before it was done")


def rows(step, site, width=WIDTH):
    seed = torch.Generator().manual_seed(1000 * step + SITES.index(site))
    return torch.randn(sum(LENGTHS), width, generator=seed).bfloat16()


def open_writer(folder, **more):
    return RecordingWriter(folder, SITES, positions="response", **more)


def append(writer, step, width=WIDTH):
    writer.append(step, EXAMPLES, LENGTHS, {site: rows(step, site, width) for site in SITES})
    writer.flush()


def make(folder, steps=STEPS):
    with open_writer(folder) as writer:
        for step in range(steps):
            append(writer, step)


def require_right(recording, width=WIDTH):
    """All that it claims to hold is what was written."""
    for step in recording.steps:
        for site in recording.sites:
            expected = rows(step, site, width).float().numpy()
            np.testing.assert_array_equal(recording.read(site, step=step), expected)


def require_same_files(one, two):
    names = sorted(path.name for path in one.glob("[!.]*"))
    assert names == sorted(path.name for path in two.glob("[!.]*"))
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


# --- killed at any moment -----------------------------------------------------------------------


def record_in_training(folder, steps, begun):
    """A recorder on a tiny model, step by step; says how far it got."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", WorkbenchWarning)
    recorder = Recorder(folder, [batch(), named(batch("left", seed=1))], ["*"], positions="all",
                        resume=True)  # fmt: skip
    model = tiny.llama()
    with recorder:
        for step in range(steps):
            recorder(model, step)
            begun.value = step + 1


def named(x):
    return type(x)(x.input_ids, x.attention_mask, x.response_mask, ("d", "e", "f"))


def killed(context, folder, steps, moment):
    """Run until that many seconds after the first step; how many steps were flushed by then."""
    flushed = context.Value("i", 0)
    process = context.Process(target=record_in_training, args=(str(folder), steps, flushed))
    process.start()
    while flushed.value == 0 and process.is_alive():
        time.sleep(0.001)
    time.sleep(moment)
    promised = flushed.value
    process.kill()
    process.join()
    return promised, process.exitcode


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Kill -9, again and again: what was flushed is right; the end is as if nothing had been."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_recording_faults"])
    steps, draw = 16, random.Random(0)
    whole = tmp_path / "whole"
    start = time.monotonic()
    record_in_training(whole, steps, context.Value("i", 0))
    duration, reference = time.monotonic() - start, Recording(whole)
    kills, moments = 0, set()
    while kills < KILLS:
        folder = tmp_path / f"killed{kills}"
        promised, code = killed(context, folder, steps, draw.uniform(0, 0.8 * duration))
        torn = Recording(folder)
        if torn.manifest.complete:  # it was done before the signal came
            assert len(torn.steps) == steps
            shutil.rmtree(folder)
            continue
        kills += 1
        assert code == -signal.SIGKILL and len(torn.steps) >= promised
        assert "stopped before it was done" in torn.unfinished
        torn.verify()
        for step in torn.steps:
            for site in torn.sites:
                np.testing.assert_array_equal(
                    torn.read(site, step=step), reference.read(site, step=step)
                )
        moments.add(len(torn.steps))
        record_in_training(folder, steps, context.Value("i", 0))
        require_same_files(folder, whole)
        assert not list(folder.glob(".partial-*"))
        shutil.rmtree(folder)
    assert len(moments) > 4  # the moments were different ones


def test_torn_at_every_byte(tmp_path):
    """Whatever part of the bytes behind the last flush reached the disk."""
    origin, whole = tmp_path / "origin", tmp_path / "whole"
    make(whole, steps=2)
    writer = open_writer(origin)
    append(writer, 0)
    flushed = {site: HEADER_BYTES + rows(0, site).nbytes for site in SITES}
    writer.append(1, EXAMPLES, LENGTHS, {site: rows(1, site) for site in SITES})
    writer.abandon()
    file = origin / f"{SITES[1]}.safetensors"
    data = file.read_bytes()
    for cut in range(len(data) + 1):
        file.write_bytes(data[:cut])
        recording = Recording(origin)
        assert recording.steps == (0,)
        if cut < flushed[SITES[1]]:  # a disk that lost what it had promised to keep
            with pytest.raises(RecordingError, match="truncated"):
                recording.read(SITES[1], step=0)
        else:
            require_right(recording)
            assert ("torn off" in recording.unfinished) == (
                cut > flushed[SITES[1]] or file.with_name(f"{SITES[0]}.safetensors").stat().st_size
                > flushed[SITES[0]]
            )  # fmt: skip
        if cut % 20 == 0 and cut >= flushed[SITES[1]]:
            again = tmp_path / f"again{cut}"
            shutil.copytree(origin, again)
            with pytest.warns(WorkbenchWarning, match="torn off"):
                writer = open_writer(again, resume=True)
            with writer:
                append(writer, 1)
            require_same_files(again, whole)
    for cut in (0, HEADER_BYTES, flushed[SITES[1]] - 1):
        file.write_bytes(data[:cut])
        with pytest.raises(RecordingError, match="truncated, so it cannot be continued"):
            open_writer(origin, resume=True)


def test_an_append_that_was_interrupted_is_never_flushed(tmp_path, monkeypatch):
    """Ctrl-C between two sites' rows, and a caller who goes on."""
    writer = open_writer(tmp_path)
    append(writer, 0)
    second = writer._writers[SITES[1]]
    with monkeypatch.context() as patch:
        patch.setattr(second, "append", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            append(writer, 1)
    with pytest.raises(RecordingError, match="interrupted"):
        writer.flush()
    require_right(Recording(tmp_path))
    with pytest.warns(WorkbenchWarning), open_writer(tmp_path, resume=True) as writer:
        append(writer, 1)
    require_right(Recording(tmp_path))


def test_rows_that_were_interrupted_are_never_flushed(tmp_path, monkeypatch):
    """Ctrl-C within one site's rows: in the file, and not counted by it."""
    writer = open_writer(tmp_path)
    append(writer, 0)
    with monkeypatch.context() as patch:
        patch.setattr(row_files.zlib, "crc32", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            append(writer, 1)
    for go_on in (writer.flush, writer.close, lambda: append(writer, 2)):
        with pytest.raises(RecordingError, match="interrupted"):
            go_on()
    recording = Recording(tmp_path)
    recording.verify()
    require_right(recording)
    assert recording.steps == (0,)


def test_what_was_killed_before_its_first_flush_leaves_nothing(tmp_path):
    """Continued with other sites, because none was recorded."""
    writer = open_writer(tmp_path)
    writer.append(0, EXAMPLES, LENGTHS, {site: rows(0, site) for site in SITES})
    writer.abandon()
    (tmp_path / "empty.safetensors").touch()  # killed as it was made
    save_file({"x": rows(0, SITES[0])}, tmp_path / "mine.safetensors")  # not a recording's
    with RecordingWriter(tmp_path, SITES[:1], positions="response", resume=True) as writer:
        writer.append(0, EXAMPLES, LENGTHS, {SITES[0]: rows(0, SITES[0])})
    recording = Recording(tmp_path)
    recording.verify()
    require_right(recording)
    left = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert left == [f"{SITES[0]}.safetensors", "mine.safetensors"]


# --- bytes that flip, files that end early --------------------------------------------------------


def places(folder):
    """The files of a recording and the parts that a campaign has to hit."""
    sites = [folder / f"{site}.safetensors" for site in SITES]
    size = STEPS * sum(LENGTHS) * WIDTH * 2
    parts = {
        "header": (sites[0], 0, HEADER_BYTES),
        "rows": (sites[1], HEADER_BYTES, HEADER_BYTES + size),
        "offsets": (sites[0], HEADER_BYTES + size, sites[0].stat().st_size),
        "manifest": (folder / "manifest.json", 0, (folder / "manifest.json").stat().st_size),
    }
    assert all(stop > start for _, start, stop in parts.values())
    return parts


@pytest.mark.parametrize("part", ["header", "rows", "offsets", "manifest"])
def test_flipped_bytes(tmp_path, part):
    """Each is detected, or is nothing that is read; wrong numbers never come out."""
    make(tmp_path)
    path, start, stop = places(tmp_path)[part]
    data, draw = path.read_bytes(), random.Random(part)
    detected = 0
    for _ in range(FLIPS):
        at, flip = draw.randrange(start, stop), draw.randrange(1, 256)
        path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        try:
            recording = Recording(tmp_path)
            require_right(recording)
            assert recording.steps == tuple(range(STEPS)) and recording.sites == SITES
            recording.verify()
        except RecordingError:
            detected += 1
            continue
        assert part == "manifest" and chr(data[at] ^ flip).isspace()  # another kind of white space
    assert detected >= FLIPS - 5
    path.write_bytes(data)
    Recording(tmp_path).verify()


def test_a_flipped_byte_elsewhere_does_not_matter(tmp_path):
    """A byte that is not read is not in the way of those that are."""
    make(tmp_path)
    path, start, stop = places(tmp_path)["rows"]
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(20):
        at = draw.randrange(start, stop)
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        recording = Recording(tmp_path)
        expected = rows(2, SITES[0]).float().numpy()
        np.testing.assert_array_equal(recording.read(SITES[0], step=2), expected)


def test_files_that_end_early(tmp_path):
    make(tmp_path)
    draw, refused = random.Random(0), 0
    for path, start, stop in places(tmp_path).values():
        data = path.read_bytes()
        for _ in range(15):
            path.write_bytes(data[: draw.randrange(start, stop)])
            with pytest.raises(RecordingError):
                recording = Recording(tmp_path)
                require_right(recording)
                recording.verify()
            refused += 1
        path.unlink()
        with pytest.raises(RecordingError, match=r"missing|cannot read"):
            Recording(tmp_path).verify()
        path.write_bytes(data)
    assert refused == 60
    Recording(tmp_path).verify()


def test_files_of_another_recording(tmp_path):
    """Every file is whole, but they do not belong together."""
    make(tmp_path / "one")
    make(tmp_path / "two")
    one, two = (tmp_path / x / f"{SITES[0]}.safetensors" for x in ("one", "two"))
    two.write_bytes((tmp_path / "two" / f"{SITES[1]}.safetensors").read_bytes())
    shutil.copy(two, one)
    with pytest.raises(RecordingError, match="checksum mismatch"):
        require_right(Recording(tmp_path / "one"))


# --- disks and writers ----------------------------------------------------------------------------


def fill(folder, limit):
    """Write until files may not grow further; a process of its own, because limits stick."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    writer = open_writer(folder)
    try:
        for step in range(1000):
            append(writer, step, width=64)
    except RecordingError as error:
        os._exit(7 if "cannot write to" in str(error) and "resume=True" in str(error) else 8)
    os._exit(9)


@pytest.mark.parametrize("limit", [1500, 4096, 10_000, 33_333])
def test_a_file_that_may_not_grow(tmp_path, limit):
    """As a full disk, in the middle of a row."""
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork of a process that has loaded torch
        process = context.Process(target=fill, args=(tmp_path, limit))
        process.start()
        process.join()
    assert process.exitcode == 7
    recording = Recording(tmp_path)
    recording.verify()
    require_right(recording, width=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)
        writer = open_writer(tmp_path, resume=True)
    with writer:
        for step in range(len(writer.steps), 40):
            append(writer, step, width=64)
    require_right(Recording(tmp_path), width=64)


def test_a_full_disk(tmp_path):
    """A real one, of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        writer = open_writer(disk / "recording")
        with pytest.raises(RecordingError, match="No space left on device"):
            for step in range(1000):
                append(writer, step, width=64)
        full = Recording(disk / "recording")
        assert len(full.steps) > 3
        full.verify()
        require_right(full, width=64)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WorkbenchWarning)
            writer = open_writer(disk / "recording", resume=True)
        with writer:
            append(writer, 999, width=64)
        require_right(Recording(disk / "recording"), width=64)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("nth", range(1, 13))
def test_no_space_at_any_write(tmp_path, monkeypatch, nth):
    """The n-th call that makes bytes durable fails; everything before it is readable."""
    real, calls, flushed = os.fsync, 0, 0

    def fails(handle):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises((RecordingError, RunError), match="No space left"):
            writer = open_writer(tmp_path)
            for step in range(STEPS):
                append(writer, step)
                flushed += 1
    if flushed:
        assert len(Recording(tmp_path).steps) >= flushed
        require_right(Recording(tmp_path))


READ_ONLY = r"Read-only file system.*make the folder writable"


@pytest.mark.parametrize("part", [".writer", ".partial-manifest", ".safetensors"])
def test_what_may_not_be_written(tmp_path, monkeypatch, part):
    """Lock, manifest or rows alone: a writer says why it cannot; reading needs no writing."""
    make(tmp_path)
    low, high = os.open, io.open
    refused = []

    def refuse(path, writing):
        if part in str(path) and writing:
            refused.append(path)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_low(path, flags, *more, **named):
        refuse(path, flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return low(path, flags, *more, **named)

    def open_high(path, mode="r", *more, **named):
        refuse(path, set(mode) & set("wax+"))
        return high(path, mode, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_low)
        patch.setattr(io, "open", open_high)
        recording = Recording(tmp_path)
        recording.verify()
        require_right(recording)
        assert recording.unfinished is None and not refused
        with pytest.raises(RecordingError, match=READ_ONLY):
            open_writer(tmp_path, resume=True)
        assert refused
    require_right(Recording(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)  # offsets that were no longer promised
        writer = open_writer(tmp_path, resume=True)
    with writer:
        append(writer, STEPS)
    require_right(Recording(tmp_path))


def test_a_read_only_disk(tmp_path):
    """A real one, which stops root as well."""
    make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bind = subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True, check=False)
    if bind.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path], check=True)
        recording = Recording(tmp_path)
        recording.verify()
        require_right(recording)
        with pytest.raises(RecordingError, match=READ_ONLY):
            open_writer(tmp_path, resume=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "recording"):
        with pytest.raises(RecordingError, match=r"file is a file\. A recording is a folder"):
            open_writer(folder)


def test_two_writers(tmp_path):
    """The second is refused and changes nothing; it may go on when the first is gone."""
    first = open_writer(tmp_path)
    append(first, 0)
    before = (tmp_path / "manifest.json").read_bytes()
    for resume in (True, False):
        with pytest.raises(RecordingError, match=rf"being written by process {os.getpid()}"):
            open_writer(tmp_path, resume=resume)
    assert (tmp_path / "manifest.json").read_bytes() == before
    append(first, 1)
    first.close()
    with open_writer(tmp_path, resume=True) as second:
        append(second, 2)
    require_right(Recording(tmp_path))
    assert Recording(tmp_path).steps == (0, 1, 2)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(RecordingError, match=r"not empty and holds no recording: thesis\.tex"):
            open_writer(tmp_path, resume=resume)
    make(tmp_path / "lost")
    (tmp_path / "lost" / "manifest.json").unlink()  # rows without a manifest are not overwritten
    with pytest.raises(RecordingError, match="holds no recording"):
        open_writer(tmp_path / "lost", resume=True)


def test_after_it_was_closed_nothing_can_be_added(tmp_path):
    with open_writer(tmp_path) as writer:
        append(writer, 0)
    with pytest.raises(RecordingError, match="was closed"):
        append(writer, 1)
