"""`workbench record`: what happens inside a model on a file of texts, in files anybody can read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from workbench.commands._base import Command

if TYPE_CHECKING:
    from workbench.prompt_sets import PromptSet


@dataclass(frozen=True, kw_only=True)
class Record(Command):
    """Record activations of a model on prompts and responses, one safetensors file a site.

    Says how many bytes it will be before it begins. Given again, it goes on from what is on disk.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """`lab:base`, `lab:aligned`, a model directory, an adapter's, or a Hub id."""
    data: str = "lab"
    """A .csv, .json, .jsonl or .parquet file of prompts and responses, a saved prompt set, or `lab`
    for the lab's own held-out questions."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder for the recording."""
    sites: tuple[str, ...] = ("resid_post",)
    """Where in the model: `resid_post` (every block), `resid_post.3`, `attn_out`, a glob."""
    positions: str = "last_prompt"
    """Which tokens: last_prompt, prompt, response, response:5 (the first five), all, or
    mean_response (one row a text)."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Type on the disk."""
    max_bytes: str = "10GB"
    """Refuse to record more than this, e.g. 500MB or 2GiB."""
    batch_size: int = 16
    """Texts that go through the model at a time. Another size may change the last bits."""
    workers: int = 1
    """Processes; the files are the same to the bit."""
    template: str | None = None
    """Chat template: `plain`, or a Jinja text. None: the model's own."""
    max_length: int | None = None
    """Cut responses so that no text has more tokens."""
    prompt: str | None = None
    """Column of prompts, if its name is not a known one; "" for text without prompts."""
    response: str | None = None
    """Column of responses, likewise; "" for prompts alone."""
    group: str | None = None
    """Column that says what kind of text a row is; by default `group`, if there is one."""
    name: str | None = None
    """Name of the panel, by default the file's."""
    version: str | None = None
    """Version of the panel, for those who compare recordings; by default `1`."""

    def run(self, console: Console) -> int:
        """Estimate, record, and say what lies where."""
        from workbench.recording_budget import parse_bytes, shown

        limit = parse_bytes(self.max_bytes)  # a mistake ends here, before torch loads
        from workbench.panel_recording import contents, record_texts
        from workbench.recording_plan import Plan

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        plan = Plan(
            texts=self._texts(),
            model=self.model,
            sites=self.sites,
            positions=self.positions,
            dtype=self.dtype,
            batch_size=self.batch_size,
            template=self.template,
            max_length=self.max_length,
        )
        texts = plan.texts
        say(f"Panel {texts.name} {texts.version} ({texts.sha256:.12}): {len(texts.texts)} texts")
        with console.status("recording") as status:
            recording = record_texts(
                plan,
                self.output,
                max_bytes=limit,
                workers=self.workers,
                say=say,
                progress=lambda done, all_: status.update(f"recording: batch {done} of {all_}"),
            )
        for file, size in contents(recording):
            say(f"{self.output / file}  {shown(size)}")
        return 0

    def _texts(self) -> "PromptSet":
        from workbench.datasets_in import read_texts, require_table

        about = {
            "name": self.name,
            "version": self.version,
            "prompt": self.prompt,
            "response": self.response,
            "group": self.group,
        }
        if self.data == "lab":
            require_table("lab", **about)
            from workbench.panel import Panel, prompt_set
            from workbench.study import open_domain

            panel = Panel(open_domain("lab", self.model), None)
            return prompt_set(panel)
        return read_texts(self.data, **about)
