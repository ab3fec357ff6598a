"""A probe on what a run recorded: what `workbench probe --recording` does.

No model is loaded: every recorded step is compared with the first.
"""

from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from workbench.errors import InvalidValueError, RecordingError
from workbench.headers import SCHEMA
from workbench.probes import PROBES, At, Probe, StateProbe
from workbench.probing import keep
from workbench.recordings import Recording, is_recording
from workbench.rows import Prompt, Row, Stage, columns
from workbench.states import StatesOf, chosen, recorded_states
from workbench.store import ACTIVATIONS, RunHeader, Store, run_id
from workbench.study import Study
from workbench.summary import summarise


def probe_recorded(
    name: str,
    probe: Probe,
    run: Path,
    console: Console,
    *,
    out: Path | None = None,
) -> list[Row]:
    """Look at the hidden states that a run recorded: every step against the first.

    Says so if the recording is torn or still being written.

    Raises:
        InvalidValueError: the probe needs more than hidden states, or states of other positions.
        RecordingError: the run recorded nothing.
        RunError: the store cannot be written.
    """
    if out is not None:
        Store(out).require_writable()
    if not isinstance(probe, StateProbe):
        able = ", ".join(name for name, kind in PROBES.items() if issubclass(kind, StateProbe))
        raise InvalidValueError(
            f"{name} needs more of a checkpoint than the hidden states that a run records: its "
            f"head, weights or gradients. Give --model, or --recording to one of: {able}."
        )
    recording = _recording(run, probe)
    header = Store(run.parent).get(run.name)
    prompts = Store(run.parent).read(Prompt, [run.name])
    kinds = dict(zip(prompts["example"], prompts["question"], strict=True))
    first, *later = recording.steps
    if not later:
        raise RecordingError(f"{run} recorded step {first} only; there is nothing to compare.")
    if recording.unfinished:
        console.print(recording.unfinished, style="yellow", markup=False, highlight=False)
    compare = probe.fit(_recorded(recording, first, probe, kinds))
    stage, reference = _begun(header)
    rows = [
        row
        for step in recording.steps
        for row in compare(_recorded(recording, step, probe, kinds), At(stage, step, reference))
    ]
    summarise([row for row in rows if getattr(row, "step", None) == later[-1]], console)
    if out is not None:
        read = {"steps": [*recording.steps], "complete": recording.manifest.complete}
        described = {"name": name, "probes": {name: asdict(probe)}, "recording": read}
        made = run_id(f"{name}-{header.id}"[:100], described, header.hashes)
        later_header = replace(
            header, schema=SCHEMA, id=made, probe=described, parents=[], state="running"
        )
        lines = prompts[list(columns(Prompt))].to_dict("records")
        kept = [Prompt(**{str(k): v for k, v in line.items()}) for line in lines]
        keep(Store(out), later_header, [*kept, *rows], console)
    return rows


def _recording(run: Path, probe: StateProbe) -> Recording:
    """What a run recorded, if it is what the probe reads."""
    if is_recording(run):
        raise RecordingError(
            f"{run} is a recording, not the folder of a run. Give the run's folder; two recordings "
            "of published checkpoints are laid side by side by workbench.alignment.read_both."
        )
    recording = Recording(run / ACTIVATIONS, warn=False)  # said on the console
    if recording.manifest.positions != probe.positions:
        raise InvalidValueError(
            f"{run} recorded positions={recording.manifest.positions!r}, the probe asks for "
            f"{probe.positions!r}; set --positions."
        )
    return recording


def _begun(header: RunHeader) -> tuple[Stage, str]:
    """The stage that a run recorded, and the name of the model at its first step.

    As live rows name it: an attack begins with the `released` model, a defence on a lab model with
    its `base`. Where a defence begins with another one, that is no live row's reference: `start`.
    """
    if header.kind == "attack":
        return "attack", "released"
    return "defence", "base" if Study(model=header.model).reference() == header.model else "start"


def _recorded(
    recording: Recording, step: int, probe: StateProbe, kinds: dict[str, str]
) -> StatesOf:
    """The recorded states by group of text and site."""
    found = {}
    for site in probe.sites:
        states = recorded_states(recording, step, site)
        for group in dict.fromkeys(kinds.get(example, "") for example in states.examples):
            of_group = tuple(x for x in states.examples if kinds.get(x, "") == group)
            found[group, site] = chosen(states, of_group)
    return found
