"""Carry out a study: find what is missing, make it in parallel, say what became of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from time import monotonic

from rich.console import Console

from workbench.errors import InvalidValueError
from workbench.lab.checkpoints import PREFIX, checkpoint_path, location
from workbench.models import best_device, digest_of, load
from workbench.parallel import Done, Job, run_jobs
from workbench.progress import watching
from workbench.runs import MODEL, Run, attack_run, immunise_run
from workbench.store import CHECKPOINT, RunHeader, RunWriter, Store
from workbench.study import Study, Unit

STATUS_SECONDS = 0.5
Plan = dict[Unit, RunHeader]


@dataclass(frozen=True)
class Outcome:
    """What a study left behind."""

    store: Store
    runs: list[RunHeader]
    """The study's finished runs, in the order of its arms and seeds."""
    made: int
    """How many of them this call made; the others were there."""
    failed: dict[str, str] = field(default_factory=dict)
    """Chain (`arm-s<seed>`) to reason."""
    stale: list[RunHeader] = field(default_factory=list)
    """Finished runs of the same configuration made by other code; left alone, never mixed in."""


def conduct(
    study: Study, store: Store, *, jobs: int = 2, console: Console | None = None
) -> Outcome:
    """Make every missing run of a study and return all of them.

    Raises:
        InvalidValueError: fewer than one job at a time.
        StoreBusyError: another study is writing to this store.
    """
    if jobs < 1:
        raise InvalidValueError(f"jobs must be at least 1, not {jobs}.")
    console = console or Console(quiet=True)
    with store.lock():
        _build_starts(study, jobs, console)
        plan = planned(study)
        finished = {run.id for run in store.find(state="finished")}
        missing = {unit: head for unit, head in plan.items() if head.id not in finished}
        console.print(f"{len(plan)} runs, {len(missing)} to make in {store.root}", highlight=False)
        failed = _make(study, store, missing, jobs, console)
    states = {run.id: run for run in store.runs()}
    runs = [states[h.id] for h in plan.values() if h.id in states]
    runs = [run for run in runs if run.state == "finished"]
    made = sum(run.id not in finished for run in runs)
    return Outcome(store, runs, made, failed, _stale(plan.values(), states.values()))


def _build_starts(study: Study, jobs: int, console: Console) -> None:
    """Lab checkpoints that are not shipped are trained before anything depends on them."""
    names = {study.start(arm, seed) for arm in study.arms() for seed in study.seeds}
    wanted = sorted(n for n in names if n.startswith(PREFIX) and not location(n).is_dir())
    if wanted:
        console.print(f"building {', '.join(wanted)} (once; kept in the cache)", highlight=False)
    for done in run_jobs([Job(n, checkpoint_path, (n,)) for n in wanted], jobs, _ignore, list):
        if done.error is not None:
            console.print(f"[red]{done.job.name}: {done.error}[/red]")


def planned(study: Study) -> Plan:
    """Every unit of a study with its header, undefended first; nothing is made."""
    domain, digests = study.domain(), {}
    units = [Unit(study, arm, seed) for arm in study.arms() for seed in study.seeds]
    units += [Unit(study, u.arm, u.seed, name) for u in list(units) for name in study.attacks]
    plan = {}
    for unit in units:
        start = study.start(unit.arm, unit.seed)
        if start not in digests:
            digests[start] = digest_of(start)
        plan[unit] = unit.header(digests[start], domain.digest)
    return plan


def _make(study: Study, store: Store, missing: Plan, jobs: int, console: Console) -> dict[str, str]:
    chains: dict[str, Plan] = {}
    for unit, head in missing.items():
        chains.setdefault(unit.chain, {})[unit] = head
    longest_first = sorted(chains.items(), key=lambda kv: -sum(u.cost for u in kv[1]))
    todo = [Job(name, make_chain, (store.root, part)) for name, part in longest_first]
    owner = {head.id: unit.chain for unit, head in missing.items()}

    def under_way() -> Iterable[str]:
        cut = (owner.get(run.id) for run in store.find(state="interrupted"))
        return [chain for chain in dict.fromkeys(cut) if chain is not None]

    weights = {head.id: unit.cost for unit, head in missing.items()}
    with watching(store, weights, console, "study") as line:

        def report(done: Done) -> None:
            units = [head.id for head in chains[done.job.name].values()]
            line(done.job.name, units, done.error)

        ended = run_jobs(todo, jobs, report, under_way)
    return {done.job.name: done.error for done in ended if done.error is not None}


def make_chain(root: Path, plan: Plan) -> None:
    """Immunise one arm with one seed, then attack it: what one worker does."""
    store = Store(root)
    for unit, header in plan.items():
        if store.folder(header.id).is_dir() and store.get(header.id).state == "finished":
            continue  # by a worker that outlived the study that was killed before this one
        with store.begin(header) as writer:
            make_unit(store, unit, writer)


def make_unit(store: Store, unit: Unit, writer: RunWriter) -> None:
    """Make one run."""
    study, header = unit.study, writer.header
    device = best_device(header.model)
    start = load(header.model, device=device, chat_template=study.template)
    if unit.attack is None:
        run = Run(writer, study.domain(), study.measures, start.tokenizer, "defence", study.probes)
        name = study.reference()
        reference = None
        if name is not None:
            reference = load(name, device=device, chat_template=study.template)
        progress = _status(writer)
        immunise_run(run, start, unit.arm.defence, unit.seed, reference=reference,
                     progress=progress, fingerprint=header.id)  # fmt: skip
        rmtree(writer.path(CHECKPOINT), ignore_errors=True)  # all is written: nothing to resume
        return
    if unit.arm.defence is not None:
        immunised = store.folder(header.parents[0]) / MODEL
        start = load(immunised, device=device, chat_template=study.template)
    run = Run(writer, study.domain(), study.measures, start.tokenizer, "attack", study.probes)
    attack_run(run, start, unit.attack, unit.seed, progress=_status(writer))


def _status(writer: RunWriter) -> Callable[[int, int], None]:
    """Tell readers how far a run is, at most every half second."""
    last = -STATUS_SECONDS

    def status(step: int, total: int) -> None:
        nonlocal last
        if monotonic() - last >= STATUS_SECONDS or step == total:
            writer.status(step=step, total=total)
            last = monotonic()

    return status


def _stale(plan: Iterable[RunHeader], runs: Iterable[RunHeader]) -> list[RunHeader]:
    """Finished runs of the same configuration and data that this plan did not ask for."""
    plan = list(plan)
    current = {head.id for head in plan}
    wanted = {(h.arm, h.seed, h.hashes["config"], h.hashes["data"]) for h in plan}
    return [
        run
        for run in runs
        if run.state == "finished"
        and run.id not in current
        and (run.arm, run.seed, run.hashes.get("config"), run.hashes.get("data")) in wanted
    ]


def _ignore(done: Done) -> None:
    """Builds are reported at their end."""
