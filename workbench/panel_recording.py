"""Recording a prompt set's activations of one model, in one process or several.

Texts go through the model in batches that depend on the texts and the batch size alone, and each
process uses the same number of threads (`OMP_NUM_THREADS`, 1 unless set). So the files come out
the same to the last bit however many processes make them and however often they are interrupted.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from workbench.errors import InvalidValueError, RecordingError, WorkbenchWarning
from workbench.parallel import Done, Job, run_jobs, threads
from workbench.recording_budget import shown
from workbench.recording_manifest import Layout
from workbench.recording_plan import STEP, Plan, loaded_model, opened
from workbench.recording_writer import RecordingWriter
from workbench.recordings import Recording, is_recording

PART = 8
"""Batches that a worker takes at a time."""
PARTS = ".parts-"
"""How a folder begins that holds what workers have recorded and the files do not hold yet."""


def record_texts(
    plan: Plan,
    folder: Path | str,
    *,
    max_bytes: int | None = None,
    workers: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recording:
    """Record a plan into a folder, or complete what was begun there.

    Args:
        plan: what to record.
        folder: where; new, empty, or with an unfinished recording of the same plan.
        max_bytes: refuse more bytes of activations than this.
        workers: processes; several need the room of a few batches more on the disk.
        say: told the estimate before anything is written, and what was repaired.
        progress: told how many of all batches are done.

    Raises:
        UnknownNameError: no such model, template or choice of positions.
        ModelError: what is there is no chat model, or its residual stream cannot be found.
        SiteError: the model lacks a site.
        InvalidValueError: more bytes than allowed or free, a text that does not fit, activations
            that are not finite.
        RecordingError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if workers < 1:
        raise InvalidValueError(f"workers must be at least 1, not {workers}.")
    with _threads():
        ready = opened(plan)
        layouts = [ready.layout(batch) for batch in plan.batches]
        estimate = ready.estimate(layouts)
        say(f"{estimate}{'' if max_bytes is None else f' (at most {shown(max_bytes)} allowed)'}")
        held = _size(folder)
        estimate.require(max_bytes, folder, held)
        with _quietly():
            writer = ready.writer(folder, max_bytes)
        with writer:
            _clear_parts(folder)
            if writer.dropped:
                say(f"Continued from its last flush. {writer.dropped}")
            done = _begun(writer, layouts)
            if workers == 1:
                for more in ready.record(writer, plan.batches[done:]):
                    progress(done + more, len(layouts))
            else:
                _together(plan, writer, done, workers, progress)
    return Recording(folder)


def _begun(writer: RecordingWriter, layouts: Sequence[Layout]) -> int:
    """How many batches are there already.

    Raises:
        RecordingError: they are not these.
    """
    there = [writer.manifest.layouts[at] for _, at in writer.manifest.entries]
    if there != layouts[: len(there)]:
        raise RecordingError(
            f"{writer.folder} was begun with another batch size or max_length: its batches are not "
            "these. Continue it as it was begun, or choose another folder."
        )
    return len(there)


def _together(
    plan: Plan,
    writer: RecordingWriter,
    begun: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Record the batches that are left in several processes, and put them in their order."""
    total = len(plan.batches)
    size = min(PART, max(1, -(-(total - begun) // (4 * workers))))  # the last ones end together
    left = [f"{a:08}-{min(a + size, total):08}" for a in range(begun, total, size)]
    ready: set[str] = set()
    with TemporaryDirectory(prefix=PARTS, dir=writer.folder, ignore_cleanup_errors=True) as parts:
        root = Path(parts)

        def finished(done: Done) -> None:
            if done.error is not None:
                raise RecordingError(f"recording stopped, what was flushed is safe. {done.error}")
            ready.add(done.job.name)
            while left and left[0] in ready:
                _take_over(writer, root / left.pop(0))
                progress(len(writer.manifest.entries), total)

        def under_way() -> list[str]:
            return [name for name in left if name not in ready and is_recording(root / name)]

        run_jobs(
            [Job(x, record_part, (plan, root / x)) for x in left], workers, finished, under_way
        )


def _clear_parts(folder: Path) -> None:
    """Remove the parts of somebody who was killed. His workers may outlive him for a while.

    Under another name they are out of the workers' reach, who then find no folder to write in.
    """
    for old in list(folder.glob(PARTS + "*")):
        shutil.rmtree(old.rename(old.with_name(f"{old.name}-old")), ignore_errors=True)


def record_part(plan: Plan, folder: Path) -> None:
    """Record some batches, which the folder's name says, into a recording of their own.

    Raises:
        FileNotFoundError: the folder of all parts is gone, because its owner was killed.
    """
    start, stop = map(int, folder.name.split("-"))
    ready = opened(plan)
    folder.mkdir(exist_ok=True)  # and not the folder of all parts
    with _quietly():
        writer = ready.writer(folder)
    with writer:
        begun = start + len(writer.manifest.entries)
        for _ in ready.record(writer, plan.batches[begun:stop]):
            pass


def _take_over(writer: RecordingWriter, folder: Path) -> None:
    """Append a part to the whole, checksums verified, and remove it."""
    part = Recording(folder)
    if part.manifest.model != writer.manifest.model:
        raise RecordingError(f"{writer.folder}: the model's files changed while it was recorded.")
    for _, at in part.manifest.entries:
        layout = part.manifest.layouts[at]
        rows = {s: part.stored(s, step=STEP, example=layout.examples) for s in part.sites}
        writer.append_stored(STEP, layout.examples, layout.lengths, rows)
    writer.flush()
    shutil.rmtree(folder)


def _size(folder: Path) -> int:
    """Bytes that a recording takes already."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@contextmanager
def _threads() -> Iterator[None]:
    """As many threads as each worker would have."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
        loaded_model.cache_clear()


@contextmanager
def _quietly() -> Iterator[None]:
    """What was dropped is said by whoever asked for the recording, in its own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)
        yield


def contents(recording: Recording) -> list[tuple[str, int]]:
    """What lies in a recording's folder: file and bytes."""
    return [(path.name, path.stat().st_size) for path in sorted(recording.path.glob("[!.]*"))]
