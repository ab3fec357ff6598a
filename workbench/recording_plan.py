"""A plan of recording: texts, model, sites and positions, and how they become rows.

Texts go through the model in batches that depend on the texts and the batch size alone, so the rows
are the same whichever process makes them.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

from workbench.activations import HookedLM
from workbench.adapter_bases import bases
from workbench.data import Batch, Example, encode, tokenizer_digest
from workbench.errors import InvalidValueError
from workbench.kept_rows import KeptRows, site_widths, undisturbed
from workbench.model_files import WANTED, find
from workbench.models import Loaded, best_device, load
from workbench.positions import Mask, Positions
from workbench.prompt_sets import PromptSet
from workbench.recording_budget import Estimate
from workbench.recording_manifest import Layout, require_sites
from workbench.recording_writer import Dtype, RecordingWriter
from workbench.states import require_room

FLUSH_SECONDS = 5.0
"""What a crash can cost. A flush waits for the disk and writes the manifest anew."""
BLOCK = re.compile(r"blocks\.(\d+)\.")
FileState = tuple[str, int, int]
"""Path of a file, its bytes, and when it was changed (ns)."""
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
        require_sites(self.sites)
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
        return Layout(batch.examples, tuple(KeptRows.of(batch, self.plan.positions).lengths))

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
            part = KeptRows.of(self._encode(examples), self.plan.positions)
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


@lru_cache(maxsize=1)
def loaded_model(model: str, template: str | None, files: tuple[FileState, ...]) -> Loaded:
    """The model of a plan, as long as its files are these."""
    return load(model, device=best_device(model), chat_template=template)


def opened(plan: Plan) -> Opened:
    """A plan with its model, which a process loads once as long as its files do not change.

    Raises:
        UnknownNameError: no such model or template.
        ModelError: what is there cannot be used as a chat model.
    """
    return Opened(plan, loaded_model(plan.model, plan.template, file_states(plan.model)))


def file_states(model: str) -> tuple[FileState, ...]:
    """The files of a model, and of what it is an adapter for, without reading the weights.

    Raises:
        UnknownNameError: no such model.
        ModelError: an adapter that is for itself.
    """
    own = find(model)
    return tuple(state for folder in (own, *bases(own)) for state in _states(folder))


def _states(folder: Path) -> list[FileState]:
    paths = sorted({path for pattern in WANTED for path in folder.glob(pattern)})
    found = [(path, path.stat()) for path in paths]
    return [(str(path), about.st_size, about.st_mtime_ns) for path, about in found]
