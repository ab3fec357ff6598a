"""The command line: quick, torch-free until it works, clear about mistakes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

import workbench
from workbench import catalogue, cli, doctor
from workbench.commands import methods
from workbench.errors import WorkbenchError
from workbench.pillars import Thresholds
from workbench.provenance import ROOT
from workbench.store import RunHeader, Store

COMMANDS = [
    "demo",
    "immunise",
    "attack",
    "study",
    "results",
    "compare",
    "probe",
    "record",
    "lab",
    "list",
    "doctor",
]
METHODS = [
    [group, entry["name"]]
    for group, (section, _) in methods.GROUPS.items()
    for entry in catalogue.load()[section]
]


def run(*arguments, **more):
    """The command in a fresh process, which also says whether it imported torch."""
    script = (
        "import sys, workbench.cli as c\n"
        "try: code = c.main(sys.argv[1:])\n"
        "except SystemExit as exit: code = exit.code or 0\n"
        "sys.stderr.write('TORCH' if 'torch' in sys.modules else '')\n"
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=more.pop("cwd", ROOT),
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100"} | more,
    )


def test_importing_the_package_is_quick_and_torch_free():
    script = "import sys, workbench; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(times) < 0.3  # the interpreter's own start included


def test_every_public_name_resolves_and_there_are_few():
    assert len(workbench.__all__) <= 25 and set(workbench.__all__) == set(dir(workbench))
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = workbench.nothing


def test_the_version_is_the_package_version():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{workbench.__version__}"' in text


@pytest.mark.parametrize(
    "arguments",
    [[], *[[command] for command in COMMANDS], ["lab", "build"], ["lab", "show"], *METHODS],
    ids=" ".join,
)
def test_help_reads_well_and_needs_no_torch(arguments):
    done = run(*arguments, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "usage: workbench" in done.stdout and "Traceback" not in done.stdout
    if not arguments:
        assert all(command in done.stdout for command in COMMANDS)
    if arguments in METHODS:
        section = methods.GROUPS[arguments[0]][0]
        shown = " ".join(done.stdout.replace("│", " ").split())
        for item in catalogue.entry(section, arguments[1])["fields"]:
            assert f"--{item['name'].replace('_', '-')}" in shown
            assert item["doc"] in shown


def test_help_is_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run("immunise", METHODS[0][1], "--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 1.5


@pytest.mark.parametrize("what", ["defences", "attacks", "probes", "figures"])
def test_lists_come_from_the_catalogue(what):
    done = run("list", what, "--json")
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout) == catalogue.load()[what]
    table = run("list", what)
    assert table.returncode == 0 and all(e["name"] in table.stdout for e in catalogue.load()[what])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["immunise", "vacine", "--model", "x"], "error: no defence called 'vacine'. Did you mean"),
        (["attack", "sfd"], "error: no attack called 'sfd'. Did you mean 'sft'?"),
        (["probe", "token"], "error: no probe called 'token'"),
        (["study", "--defences", "vacine"], "error: no defence called 'vacine'. Did you mean"),
        (["immunise", "vaccine", "--model", "x", "-o", "y", "--rho", "much"], "rho"),
        (["immunise", "vaccine"], "--model"),
        (["list", "everything"], "defences"),
        (["conquer"], "Available subcommands"),
    ],
)
def test_mistakes_end_with_2_and_without_a_traceback_or_torch(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr and "TORCH" not in done.stderr
    if message.startswith("error: "):
        assert len(done.stderr.strip().splitlines()) == 1


# --- what the commands hand on ----------------------------------------------------------------


@pytest.fixture
def single(monkeypatch):
    """A stand-in for the module that does the work; it keeps what it was given."""
    calls = {}
    module = ModuleType("workbench.single")
    for name in ("immunise", "attack"):
        setattr(
            module,
            name,
            lambda *given, name=name, template: calls.update({name: (*given, template)}),
        )
    monkeypatch.setitem(sys.modules, "workbench.single", module)
    return calls


def test_settings_reach_the_method(single, tmp_path):
    given = ["--model", "lab:base", "-o", str(tmp_path), "--rho", "3", "--seed", "5"]
    given += ["--fit.steps", "7", "--layers", "1", "2", "--template", "plain"]
    assert cli.main(["immunise", "vaccine", *given]) == 0
    name, defence, model, data, seed, store, out, _, template = single["immunise"]
    assert (name, model, data, out, seed) == ("vaccine", "lab:base", "lab", tmp_path, 5)
    assert template == "plain"
    assert store.root == Path("runs")
    assert (defence.rho, defence.fit.steps, defence.layers) == (3.0, 7, (1, 2))


def test_defaults_are_the_methods_own(single):
    from workbench.attacks import ATTACKS
    from workbench.defences import DEFENCES

    for name, kind in DEFENCES.items():
        assert cli.main(["immunise", name, "--model", "m", "-o", "o"]) == 0
        assert single["immunise"][1] == kind()
    for name, kind in ATTACKS.items():
        assert cli.main(["attack", name, "--model", "m"]) == 0
        assert single["attack"][1] == kind()


@pytest.fixture
def probing(monkeypatch):
    """A stand-in for the module that looks at checkpoints; it keeps what it was given."""
    calls = {}
    for module, name in (("probing", "probe_models"), ("recorded_probing", "probe_recorded")):
        stand_in = ModuleType(f"workbench.{module}")
        setattr(stand_in, name, lambda *given, name=name, **more: calls.update({name: given}))
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return calls


def test_probes_get_their_settings(probing):
    from workbench.probes import PROBES

    for name, kind in PROBES.items():
        assert cli.main(["probe", name, "--model", "a", "--reference", "b"]) == 0
        assert probing["probe_models"][:4] == (name, kind(), "a", "b")
    assert cli.main(["probe", "drift", "--recording", "r", "--positions", "response"]) == 0
    name, probe, run, _ = probing["probe_recorded"]
    assert (name, probe.positions, run) == ("drift", "response", Path("r"))


@pytest.mark.parametrize("given", [[], ["--model", "a", "--recording", "r"]])
def test_a_probe_looks_at_a_model_or_at_a_recording(probing, capsys, given):
    assert cli.main(["probe", "drift", *given]) == 2
    assert "either --model" in capsys.readouterr().err and not probing


@dataclass
class Outcome:
    store: Store
    runs: tuple = ()
    failed: dict = field(default_factory=dict)
    stale: tuple = ()


@pytest.fixture
def conducted(monkeypatch):
    """Stand-ins for what conducts a study and prints it; they keep what they were given."""
    calls, failed = {}, {}
    demo, conduct, report = (ModuleType(f"workbench.{m}") for m in ("demo", "execution", "report"))
    demo.run_demo = lambda root, seeds, jobs, console, probes: (
        calls.update(demo=(root, seeds, jobs)) or Outcome(Store(root), failed=failed)
    )
    conduct.conduct = lambda study, store, jobs, console: (
        calls.update(study=(study, store.root, jobs)) or Outcome(store, failed=failed)
    )
    report.show = lambda store, runs, thresholds, console: calls.update(thresholds=thresholds)
    for module in (demo, conduct, report):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    calls["failed"] = failed
    return calls


def test_demo_passes_on_its_options_and_says_where_the_runs_are(conducted, tmp_path, capsys):
    assert cli.main(["demo", "--store", str(tmp_path), "--seeds", "4", "5", "--jobs", "1"]) == 0
    assert conducted["demo"] == (tmp_path, (4, 5), 1)
    assert conducted["thresholds"] == Thresholds()
    assert "Run folders:" in capsys.readouterr().out


def test_a_failed_unit_is_named_and_the_exit_code_is_1(conducted, tmp_path, capsys):
    conducted["failed"]["vaccine-s1"] = "the loss is not finite"
    assert cli.main(["demo", "--store", str(tmp_path)]) == 1
    assert "vaccine-s1 failed: the loss is not finite" in capsys.readouterr().out


def test_a_study_is_what_was_asked_for(conducted, tmp_path):
    given = ["--defences", "vaccine", "--attacks", "sft", "--seeds", "7", "--no-controls"]
    given += ["--template", "plain"]
    assert cli.main(["study", *given, "--store", str(tmp_path), "--phi", "0.3"]) == 0
    study, root, jobs = conducted["study"]
    assert (list(study.defences), list(study.attacks), study.seeds) == (["vaccine"], ["sft"], (7,))
    assert (study.controls, study.template, root, jobs) == (False, "plain", tmp_path, 2)
    assert conducted["thresholds"] == Thresholds(phi=0.3)


def test_bad_values_of_a_method_are_one_line(single, capsys):
    assert cli.main(["immunise", "vaccine", "--model", "m", "-o", "o", "--rho", "-1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "rho" in said and "Traceback" not in said


@dataclass
class Failing:
    error: BaseException

    def __call__(self, *given, **more):
        raise self.error


def failing(monkeypatch, error):
    module = ModuleType("workbench.single")
    module.attack = Failing(error)
    monkeypatch.setitem(sys.modules, "workbench.single", module)
    return ["attack", "sft", "--model", "m"]


def test_ctrl_c_ends_with_130_and_says_that_nothing_is_lost(monkeypatch, capsys):
    assert cli.main(failing(monkeypatch, KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.strip() == cli.STOPPED


def test_debug_shows_the_traceback(monkeypatch):
    arguments = failing(monkeypatch, WorkbenchError("no [such] thing"))
    with pytest.raises(WorkbenchError):
        cli.main([*arguments, "--debug"])


def test_messages_are_printed_as_they_are(monkeypatch, capsys):
    text = "no [such] thing " + "x" * 200
    assert cli.main(failing(monkeypatch, WorkbenchError(text))) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


def test_a_missing_package_is_named(monkeypatch, capsys):
    arguments = failing(monkeypatch, ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert cli.main(arguments) == 2
    assert "needs torch" in capsys.readouterr().err and "doctor" in cli.NO_TORCH


def test_bugs_are_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        cli.main(failing(monkeypatch, ZeroDivisionError()))


# --- doctor -----------------------------------------------------------------------------------


def findings(**more):
    return {f.name: f for f in doctor.examine(**more)}


def test_doctor_says_what_to_do_about_every_problem():
    for finding in doctor.examine():
        assert finding.found and (finding.remedy or finding.state == "ok"), finding


def test_doctor_without_torch(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = findings()["device"]
    assert found.state == "problem" and "figures and tables work" in found.found


def test_doctor_compares_versions_with_what_is_needed(monkeypatch):
    needs = ["numpy>=99,<100", "pandas>=0", "no-such-package>=1", "ruff>=99; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needs)
    found = findings()
    assert found["numpy"].state == "problem" and "is needed" in found["numpy"].found
    assert found["numpy"].remedy.startswith("pip install 'numpy")
    assert found["pandas"].state == "ok"
    assert found["no-such-package"].found == "not installed"
    assert "ruff" not in found


def test_doctor_checks_the_shipped_weights(tmp_path, monkeypatch):
    for name in ("base", "aligned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"sha256": "0"}')
        (tmp_path / name / "model.safetensors").write_bytes(b"x")
    states = {f.name: f.state for f in doctor._lab_weights(tmp_path)}
    assert states == {"lab:base": "problem", "lab:aligned": "problem"}
    assert all(f.state == "problem" for f in doctor._lab_weights(tmp_path / "nowhere"))


def test_doctor_sees_flags_threads_and_browser(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    found = findings()
    assert "HF_HUB_OFFLINE=1" in found["model hub"].found
    assert found["processors"].state == "note" and "one thread each" in found["processors"].remedy
    assert found["browser"].state == "note"
    (tmp_path / "chromium").touch(mode=0o755)
    assert findings()["browser"].state == "ok"


def test_doctor_sees_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**more):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = findings(store=tmp_path / "deep" / "runs")["store"]
    assert found.state == "problem" and "Read-only" in found.found and "--store" in found.remedy


def test_doctor_as_json(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_lab_weights", lambda: iter(()))
    code = cli.main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == int(any(f["state"] == "problem" for f in found))
    assert {"name", "state", "found", "remedy"} == set(found[0])


def test_one_thread_unless_told_otherwise(single, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert cli.main(["attack", "sft", "--model", "m"]) == 0
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert cli.main(["attack", "sft", "--threads", "3", "--model", "m"]) == 0
    assert os.environ["OMP_NUM_THREADS"] == "3"
    with pytest.raises(SystemExit):
        cli.main(["attack", "sft", "--threads", "none"])


def test_runs_of_other_code_are_named(conducted, tmp_path, capsys, monkeypatch):
    old = Outcome(Store(tmp_path), stale=(RunHeader(id="vaccine-s0-old", kind="immunise"),))
    monkeypatch.setattr(sys.modules["workbench.demo"], "run_demo", lambda *_: old)
    assert cli.main(["demo", "--store", str(tmp_path)]) == 0
    assert "Stale, made by other code and left out: vaccine-s0-old" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["demo", "study", "results"])
@pytest.mark.parametrize("jobs", ["0", "-1"])
@pytest.mark.timeout(60)
def test_no_job_at_a_time_is_refused(command, jobs, tmp_path, capsys):
    assert cli.main([command, "--jobs", jobs, "--store", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said == f"error: jobs must be at least 1, not {jobs}.\n"
    assert not [*tmp_path.rglob("run.json")]


def test_a_file_where_a_folder_is_to_be_made_is_named_before_anything_is_built(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["lab", "build", "-o", str(tmp_path / "file" / "lab")]) == 2
    assert "file is a file; give a folder for the two models." in " ".join(
        capsys.readouterr().err.split()
    )


def test_names_may_be_written_with_either_sign(single, probing, conducted, capsys):
    """Help shows `-` throughout, registries have both: each spelling gives the same method."""
    for group, name in METHODS:
        for spelt in (name.replace("-", "_"), name.replace("_", "-")):
            assert cli.main([group, spelt, "--model", "m"]) == 0
            calls = single.get(group) or probing["probe_models"]
            assert calls[0] == name
    for section in ("defences", "attacks", "probes"):
        names = [entry["name"] for entry in catalogue.load()[section]]
        for change in (("-", "_"), ("_", "-")):
            assert cli.main(["study", f"--{section}", *(n.replace(*change) for n in names)]) == 0
            assert list(getattr(conducted["study"][0], section)) == names


def test_figures_may_be_written_with_either_sign():
    for entry in catalogue.load()["figures"]:
        assert catalogue.entry("figures", entry["name"].replace("_", "-")) == entry


def test_no_two_methods_differ_by_the_sign_alone():
    for section, entries in catalogue.load().items():
        names = {entry["name"].replace("_", "-") for entry in entries}
        assert len(names) == len(entries), section


def test_no_steps_are_refused_at_the_door(single, capsys):
    assert cli.main(["immunise", "vaccine", "--model", "m", "--fit.steps", "0"]) == 2
    assert "steps must be at least 1, not 0" in capsys.readouterr().err


def test_the_package_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "immunise", "vacine"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and "Did you mean 'vaccine'?" in done.stderr
