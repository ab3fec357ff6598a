"""One immunisation or one attack on any model: what the single commands do."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from workbench.attacks import Attack
from workbench.defences import Defence
from workbench.errors import InvalidValueError, WorkbenchError
from workbench.execution import Outcome, conduct
from workbench.models import load, save
from workbench.pillars import Thresholds
from workbench.report import show
from workbench.runs import MODEL
from workbench.store import Store
from workbench.study import Study

MANIFEST = "immunisation.json"
GIVEN = "given"


def immunise(
    name: str,
    defence: Defence,
    model: str,
    data: str,
    seed: int,
    store: Store,
    out: Path | None,
    console: Console,
    *,
    template: str | None = None,
) -> Path:
    """Immunise a model in a run folder, recorded and measured, and copy the model to `out`.

    Returns the folder of the immunised model. A lab model is immunised from the checkpoint that
    the method starts from. A chat template that is given goes with the model. Resumes after a kill;
    a finished run is only copied.

    Raises:
        InvalidValueError: the output folder already holds something.
        WorkbenchError: the run failed.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise InvalidValueError(f"{out} is not empty; give another folder for the immunised model.")
    study = Study(model=model, data=data, defences={name: defence}, seeds=(seed,),
                  undefended=False, controls=False, template=template)  # fmt: skip
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
    name: str,
    method: Attack,
    model: str,
    data: str,
    seed: int,
    store: Store,
    console: Console,
    *,
    template: str | None = None,
) -> None:
    """Attack a model as it is given, record the run and judge it. A finished run is only shown.

    Raises:
        WorkbenchError: the run failed.
    """
    study = Study(model=model, data=data, attacks={name: method}, seeds=(seed,), label=GIVEN,
                  template=template)  # fmt: skip
    outcome = _conducted(study, store, console)
    show(store, outcome.runs, Thresholds(), console)
    console.print(f"run folder: {store.folder(outcome.runs[-1].id)}", highlight=False)


def _conducted(study: Study, store: Store, console: Console) -> Outcome:
    outcome = conduct(study, store, jobs=1, console=console)
    if outcome.failed:
        raise WorkbenchError("; ".join(f"{k}: {v}" for k, v in outcome.failed.items()))
    return outcome
