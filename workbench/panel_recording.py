"""Recording a prompt set's activations of one model, in one process or several.

Texts go through the model in batches that depend on the texts and the batch size alone, and each
process uses the same number of threads (`OMP_NUM_THREADS`, 1 unless set). So the files come out
the same to the last bit however many processes make them and however often they are interrupted.
"""

import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from workbench.activations import HookedLM
from workbench.data import Batch, Example, encode, tokenizer_digest
from workbench.errors import InvalidValueError, RecordingError, WorkbenchWarning
from workbench.models import Loaded, best_device, digest_of, load
from workbench.parallel import Done, Job, run_jobs, threads
from workbench.positions import Mask, Positions
from workbench.prompt_sets import PromptSet
from workbench.recording import Part, site_widths, undisturbed
from workbench.recording_budget import Estimate, shown
from workbench.recording_manifest import Layout
from workbench.recording_writer import Dtype, RecordingWriter
from workbench.recordings import Recording, is_recording
from workbench.states import require_room

FLUSH_SECONDS = 5.0
"""What a crash can cost. A flush waits for the disk and writes the manifest anew."""
PART = 8
"""Batches that a worker takes at a time."""
PARTS = ".parts-"
"""How a folder begins that holds what workers have recorded and the files do not hold yet."""
BLOCK = re.compile(r"blocks\.(\d+)\.")
STEP = 0
"""A model that is not being trained is at this step."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to record of which texts; enough for a worker to do its part."""

    texts: PromptSet
    model: str
    """As in `models.load`."""
    sites: tuple[str, ...] = ("resid_post",)
    """Patterns as in `HookedLM.resolve`."""
    positions: Positions | Mask = "last_prompt"
    dtype: Dtype = "bf16"
    batch_size: int = 16
    template: str | None = None
    """Chat template instead of the model's own."""
    max_length: int | None = None
    """Cut responses so that text has so many tokens at most."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidValueError(f"batch_size must be at least 1, not {self.batch_size}.")
        needs = str(self.positions).split(":")[0] in ("response", "mean_response")
        mute = [text.id for text in self.texts.texts if not text.response] if needs else []
        if mute:
            raise InvalidValueError(
                f"positions={self.positions!r}, but {len(mute)} texts have no response, the first "
                f"is {mute[0]!r}. Record last_prompt or prompt, or give responses."
            )

    @cached_property
    def batches(self) -> list[list[Example]]:
        """The texts in their order, as they go through the model."""
        texts = [Example(x.id, x.prompt, x.response) for x in self.texts.texts]
        return [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]


class Opened:
    """A plan with its model: batches become rows."""

    def __init__(self, plan: Plan, loaded: Loaded):
        self.plan, self.loaded = plan, loaded
        self.lm = HookedLM(loaded.model)
        self.sites = self.lm.resolve(*plan.sites)
        blocks = [int(found[1]) + 1 for site in self.sites if (found := BLOCK.match(site))]
        above = any(not BLOCK.match(site) and site != "hook_embed" for site in self.sites)
        self._depth = None if above else max(blocks, default=1)

    def layout(self, examples: Sequence[Example]) -> Layout:
        """The rows that a batch will give.

        Raises:
            InvalidValueError: a text is longer than the model's context, or has no such token.
        """
        batch = self._encode(examples)
        require_room(self.lm, batch)
        return Layout(batch.examples, tuple(Part.of(batch, self.plan.positions).lengths))

    def estimate(self, layouts: Sequence[Layout]) -> Estimate:
        """How many bytes it will be."""
        rows = sum(sum(layout.lengths) for layout in layouts)
        examples = sum(len(layout.examples) for layout in layouts)
        return Estimate(site_widths(self.lm, self.sites), examples, rows, 1, self.plan.dtype)

    def record(
        self, writer: RecordingWriter, batches: Sequence[Sequence[Example]]
    ) -> Iterator[int]:
        """Append batches, flushed every few seconds; how many are done, after each."""
        flushed = time.monotonic()
        run = partial(self.lm.stream, blocks=self._depth)
        for done, examples in enumerate(batches, 1):
            part = Part.of(self._encode(examples), self.plan.positions)
            with undisturbed(self.lm.model):
                acts = part.rows(self.lm, self.sites, self.plan.dtype, run)
            writer.append(STEP, part.batch.examples, part.lengths, acts)
            if time.monotonic() - flushed > FLUSH_SECONDS:
                writer.flush()
                flushed = time.monotonic()
            yield done

    def writer(self, folder: Path, max_bytes: int | None = None) -> RecordingWriter:
        """A recording of this plan, begun or continued."""
        plan = self.plan
        return RecordingWriter(
            folder,
            self.sites,
            positions=plan.positions,
            dtype=plan.dtype,
            model=self.loaded.digest,
            tokenizer=tokenizer_digest(self.loaded.tokenizer),
            panel=plan.texts.identity,
            cut=plan.max_length,
            max_bytes=max_bytes,
            resume=True,
        )

    def _encode(self, examples: Sequence[Example]) -> Batch:
        return encode(self.loaded.tokenizer, examples, max_length=self.plan.max_length)


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
        opened = _opened(plan, digest_of(plan.model))
        layouts = [opened.layout(batch) for batch in plan.batches]
        estimate = opened.estimate(layouts)
        say(f"{estimate}{'' if max_bytes is None else f' (at most {shown(max_bytes)} allowed)'}")
        held = _size(folder)
        estimate.require(max_bytes, folder, held)
        with _quietly():
            writer = opened.writer(folder, max_bytes)
        with writer:
            if writer.dropped:
                say(f"Continued from its last flush. {writer.dropped}")
            done = _begun(writer, layouts)
            if workers == 1:
                for more in opened.record(writer, plan.batches[done:]):
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
    for old in writer.folder.glob(PARTS + "*"):  # of somebody who was killed
        shutil.rmtree(old, ignore_errors=True)
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


def record_part(plan: Plan, folder: Path) -> None:
    """Record some batches, which the folder's name says, into a recording of their own."""
    start, stop = map(int, folder.name.split("-"))
    opened = _opened(plan, digest_of(plan.model))
    with _quietly():
        writer = opened.writer(folder)
    with writer:
        begun = start + len(writer.manifest.entries)
        for _ in opened.record(writer, plan.batches[begun:stop]):
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


@lru_cache(maxsize=1)
def _loaded(model: str, template: str | None, digest: str) -> Loaded:
    return load(model, device=best_device(model), chat_template=template)


def _opened(plan: Plan, digest: str) -> Opened:
    """The plan with its model, which a process loads once as long as its files do not change."""
    return Opened(plan, _loaded(plan.model, plan.template, digest))


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
        _loaded.cache_clear()


@contextmanager
def _quietly() -> Iterator[None]:
    """What was dropped is said by whoever asked for the recording, in its own words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)
        yield


def contents(recording: Recording) -> list[tuple[str, int]]:
    """What lies in a recording's folder: file and bytes."""
    return [(path.name, path.stat().st_size) for path in sorted(recording.path.glob("[!.]*"))]
