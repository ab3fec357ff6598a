"""One immunisation or one attack on any model: what the single commands do."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from workbench.attacks import Attack
from workbench.defences import Defence
from workbench.errors import InvalidValueError, WorkbenchError
from workbench.execution import Outcome, conduct, planned
from workbench.files import in_the_way
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
    a finished run is only copied, and an output folder that holds its model stays as it is.

    Raises:
        InvalidValueError: the output is a file, or a folder that holds something else.
        WorkbenchError: the run failed.
    """
    study = Study(model=model, data=data, defences={name: defence}, seeds=(seed,),
                  undefended=False, controls=False, template=template)  # fmt: skip
    there = out is not None and _holds(out, study)
    (run,) = _conducted(study, store, console).runs
    made = store.folder(run.id) / MODEL
    if out is not None and there:
        console.print(f"{out} holds this model already.", highlight=False)
    elif out is not None:
        loaded = load(made)
        save(loaded.model, loaded.tokenizer, out)
        (out / MANIFEST).write_text(json.dumps(asdict(run), indent=1) + "\n")
    made = out or made
    console.print(f"run folder: {store.folder(run.id)}\nimmunised model: {made}", highlight=False)
    return made


def _holds(out: Path, study: Study) -> bool:
    """Whether a folder holds the model that this study of one arm makes; False for an empty one.

    Raises:
        InvalidValueError: it is a file, or holds something else; known before anything is trained.
    """
    if file := in_the_way(out):
        raise InvalidValueError(f"{file} is a file; give a folder for the immunised model.")
    if not out.exists() or not any(out.iterdir()):
        return False
    (head,) = planned(study).values()
    if _made_by(out) != head.id:
        raise InvalidValueError(
            f"{out} is not empty and does not hold the model of this run; give another folder for "
            "the immunised model."
        )
    return True


def _made_by(folder: Path) -> str | None:
    """The id of the run whose model was copied to a folder; None if there is none."""
    try:
        return json.loads((folder / MANIFEST).read_text())["id"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


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
