"""One immunisation, one attack or one probe on any model: what the single commands do."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from workbench import provenance, tables
from workbench.attacks import Attack
from workbench.data import encode, tokenizer_digest
from workbench.defences import Defence
from workbench.domains import Domain, streams
from workbench.errors import InvalidValueError
from workbench.measures import Measures
from workbench.models import Loaded, load, save
from workbench.pillars import Thresholds
from workbench.probes import PROBES, At
from workbench.report import show
from workbench.resume import Checkpoint
from workbench.rows import Group, Row
from workbench.runs import Run, attack_run
from workbench.store import RunHeader, Store, run_id
from workbench.study import open_domain
from workbench.training import Step

MANIFEST = "immunisation.json"
PROBED: tuple[Group, ...] = ("hazard", "benign")


def immunise(
    name: str, defence: Defence, model: str, data: str, out: Path, seed: int, console: Console
) -> None:
    """Immunise a model and save it beside a note of how it was made. Resumes after a kill.

    Raises:
        InvalidValueError: the output folder already holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise InvalidValueError(f"{out} is not empty; give another folder for the immunised model.")
    start, domain = load(model), open_domain(data, model)
    size = defence.batch_size
    drawn = streams(domain, defence.streams, start.tokenizer, split="defend",
                    batch_size=size, n=size * defence.steps, seed=seed)  # fmt: skip
    made_of = {
        "defence": {"name": name} | asdict(defence),
        "seed": seed,
        "start": {"name": model, "digest": start.digest},
        "data": {"name": domain.name, "digest": domain.digest},
    }
    partial = out.with_name(out.name + ".checkpoint")
    with _progress(console, name) as step_taken:

        def watch(step: Step, model: nn.Module) -> None:
            step_taken(step.step, defence.steps)

        immunised = defence.immunise(
            start.model, drawn, seed=seed, callbacks=[watch], in_place=True,
            checkpoint=Checkpoint(partial, provenance.config_hash(made_of)),
        )  # fmt: skip
    save(immunised, start.tokenizer, out)
    note = made_of | {"versions": provenance.library_versions(), "git": provenance.git_state()}
    (out / MANIFEST).write_text(json.dumps(note, indent=1) + "\n")
    rmtree(partial, ignore_errors=True)
    console.print(f"immunised model: {out}", highlight=False)


def attack(
    name: str, method: Attack, model: str, data: str, root: Path, seed: int, console: Console
) -> None:
    """Attack a model as given, record the run and judge it. A finished run is only shown."""
    start, domain, store = load(model), open_domain(data, model), Store(root)
    header = _attack_header(name, method, start, domain, seed, model)
    with store.lock():
        if not store.find(id=header.id, state="finished"):
            with store.begin(header) as writer, _progress(console, name) as progress:
                run = Run(writer, domain, Measures(), start.tokenizer, "attack")
                attack_run(run, start, method, seed, progress=progress)
    show(store, [store.get(header.id)], Thresholds(), console)
    console.print(f"run folder: {store.folder(header.id)}", highlight=False)


def _attack_header(
    name: str, method: Attack, start: Loaded, domain: Domain, seed: int, model: str
) -> RunHeader:
    config = {"attack": {"name": name} | asdict(method), "seed": seed, "measures": Measures()}
    modules = (type(method).__module__, type(domain).__module__, "workbench.runs")
    hashes = {
        "config": provenance.config_hash(config),
        "data": domain.digest,
        "start": start.digest,
        "code": provenance.code_hash(*modules),
        "libraries": provenance.config_hash(provenance.library_majors()),
    }
    return RunHeader(
        id=run_id(f"given-s{seed}.{name}", hashes),
        kind="attack",
        model=model,
        arm="given",
        attack={"name": name} | asdict(method),
        seed=seed,
        hashes=hashes,
        versions=provenance.library_versions(),
        git=provenance.git_state(),
    )


def probe(
    name: str,
    settings: Mapping[str, Any],
    model: str,
    reference: str,
    data: str,
    prompts: int,
    out: Path | None,
    console: Console,
) -> None:
    """Compare two checkpoints on the same held-out questions and print the means.

    Raises:
        InvalidValueError: the checkpoints read text as different tokens, or there is no text.
    """
    now, then, domain = load(model), load(reference), open_domain(data, model)
    if tokenizer_digest(now.tokenizer) != tokenizer_digest(then.tokenizer):
        raise InvalidValueError(
            f"{model} and {reference} have different tokenizers or chat templates; a probe "
            "compares two checkpoints on the same tokens."
        )
    rows: list[Row] = []
    for group in PROBED:
        questions = list(domain.questions("test", group))[:prompts]
        if questions:
            batch = encode(now.tokenizer, [q.example for q in questions])
            at = At("attack", 0, reference, group)
            rows += PROBES[name](now.model, then.model, batch, at, **settings)
    if not rows:
        raise InvalidValueError(f"{data} has no held-out questions to compare {model} on.")
    console.print(_means(rows))
    if out is not None:
        tables.write(tables.table(rows), out)


def _means(rows: list[Row]) -> Table:
    """Means over the examples that reach each place of the axis, by kind of text and measure."""
    frame = pd.DataFrame([vars(row) for row in rows])
    groups = frame.groupby(["group", "measure"], sort=False)["values"]
    means = {
        names: pd.DataFrame([pd.Series(values) for values in part]).mean() for names, part in groups
    }
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column(type(rows[0]).axis.replace("_", " "), justify="right")  # type: ignore[attr-defined]
    for names in means:
        grid.add_column(", ".join(names), justify="right")
    for place, line in pd.DataFrame(means).iterrows():
        grid.add_row(str(place), *["" if pd.isna(x) else f"{x:.3g}" for x in line])
    return grid


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, moved by (steps done, steps in all)."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
