"""One immunisation, one attack or one probe on any model: what the single commands do."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from workbench import tables
from workbench.attacks import Attack
from workbench.data import encode, tokenizer_digest
from workbench.defences import Defence
from workbench.errors import InvalidValueError, WorkbenchError
from workbench.execution import Outcome, conduct
from workbench.models import best_device, load, save
from workbench.pillars import Thresholds
from workbench.probes import PROBES, At
from workbench.report import show
from workbench.rows import Group, Row
from workbench.runs import MODEL
from workbench.store import Store
from workbench.study import Study, open_domain

MANIFEST = "immunisation.json"
GIVEN = "given"
PROBED: tuple[Group, ...] = ("hazard", "benign")


def immunise(
    name: str,
    defence: Defence,
    model: str,
    data: str,
    seed: int,
    store: Store,
    out: Path | None,
    console: Console,
) -> Path:
    """Immunise a model in a run folder, recorded and measured, and copy the model to `out`.

    Returns the folder of the immunised model. A lab model is immunised from the checkpoint that
    the method starts from. Resumes after a kill; a finished run is only copied.

    Raises:
        InvalidValueError: the output folder already holds something.
        WorkbenchError: the run failed.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise InvalidValueError(f"{out} is not empty; give another folder for the immunised model.")
    study = Study(model=model, data=data, defences={name: defence}, seeds=(seed,),
                  undefended=False, controls=False)  # fmt: skip
    (run,) = _conducted(study, store, console).runs
    made = store.folder(run.id) / MODEL
    if out is not None:
        loaded = load(made)
        save(loaded.model, loaded.tokenizer, out)
        (out / MANIFEST).write_text(json.dumps(asdict(run), indent=1) + "\n")
        made = out
    console.print(f"run folder: {store.folder(run.id)}\nimmunised model: {made}", highlight=False)
    return made


def attack(
    name: str, method: Attack, model: str, data: str, seed: int, store: Store, console: Console
) -> None:
    """Attack a model as it is given, record the run and judge it. A finished run is only shown.

    Raises:
        WorkbenchError: the run failed.
    """
    study = Study(model=model, data=data, attacks={name: method}, seeds=(seed,), label=GIVEN)
    outcome = _conducted(study, store, console)
    show(store, outcome.runs, Thresholds(), console)
    console.print(f"run folder: {store.folder(outcome.runs[-1].id)}", highlight=False)


def _conducted(study: Study, store: Store, console: Console) -> Outcome:
    outcome = conduct(study, store, jobs=1, console=console)
    if outcome.failed:
        raise WorkbenchError("; ".join(f"{k}: {v}" for k, v in outcome.failed.items()))
    return outcome


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
    now, then = (load(name, device=best_device(name)) for name in (model, reference))
    domain = open_domain(data, model)
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
        grid.add_column(", ".join(map(str, names)), justify="right")
    for place, line in pd.DataFrame(means).iterrows():
        grid.add_row(str(place), *["" if pd.isna(x) else f"{x:.3g}" for x in line])
    return grid
