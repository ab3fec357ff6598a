"""What this machine has for the workbench, and what to do about what it lacks."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from workbench.lab.checkpoints import SHIPPED, cache_directory

DISTRIBUTION = "immunisation-workbench"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "problem"]
    """`note`: works without it, or worth knowing; `problem`: something will not work."""
    found: str
    remedy: str = ""
    """What to do; empty when there is nothing to do."""


def examine(store: Path = Path("runs")) -> list[Finding]:
    """Look at Python, packages, device, browser, network settings, folders and lab weights."""
    return [
        Finding("python", "ok", platform.python_version()),
        *_packages(),
        _device(),
        _processors(),
        _browser(),
        _network(),
        _writable("cache", cache_directory()),
        _writable("store", store),
        *_lab_weights(),
    ]


def _packages() -> Iterator[Finding]:
    """Every dependency's version against the range this version of the workbench asks for."""
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding(
            DISTRIBUTION, "problem", "not installed", "run `make setup`, or `pip install -e .`"
        )
        return
    for text in required:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding(
                wanted.name, "problem", "not installed", f"pip install '{_plain(wanted)}'"
            )
            continue
        if wanted.specifier.contains(version, prereleases=True):
            yield Finding(wanted.name, "ok", version)
        else:
            found = f"{version}, but {wanted.specifier} is needed"
            yield Finding(wanted.name, "problem", found, f"pip install '{_plain(wanted)}'")


def _plain(wanted: Requirement) -> str:
    return f"{wanted.name}{wanted.specifier}"


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding(
            "device",
            "problem",
            "torch is not installed: figures and tables work, measuring does not",
            "pip install torch (the CPU build is enough)",
        )
    import torch

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("device", "ok", f"{', '.join(names)} ({build}, CUDA {torch.version.cuda})")
    if torch.backends.mps.is_available():
        return Finding("device", "ok", f"Apple GPU ({build})")
    return Finding("device", "ok", f"CPU ({build}); enough for the lab models")


def _processors() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    found = f"{cores} cores, OMP_NUM_THREADS {threads}"
    if threads in ("unset", "1"):
        return Finding("processors", "ok", found)
    return Finding(
        "processors",
        "note",
        found,
        "studies use processes, one thread each; several threads on busy cores are far slower: "
        "unset OMP_NUM_THREADS, or set it to 1",
    )


def _browser() -> Finding:
    path = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path and Path(path).exists():
        return Finding("browser", "ok", f"{path} (figures export to PDF, SVG, PNG)")
    return Finding(
        "browser",
        "note",
        "no Chromium: figures show, but do not export to PDF, SVG or PNG",
        "apt install chromium, or point BROWSER_PATH at a Chrome",
    )


def _network() -> Finding:
    flags = {name: os.environ[name] for name in OFFLINE if name in os.environ}
    if any(value.upper() in ("1", "TRUE", "YES", "ON") for value in flags.values()):
        return Finding(
            "model hub",
            "note",
            f"offline ({', '.join(f'{k}={v}' for k, v in flags.items())})",
            "lab models and directories work; to load models by Hub id unset these",
        )
    return Finding("model hub", "ok", "online (only asked when a model or data set is a Hub id)")


def _writable(name: str, folder: Path) -> Finding:
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        where = "WORKBENCH_CACHE" if name == "cache" else "--store"
        return Finding(
            name,
            "problem",
            f"{folder} cannot be written: {error.strerror}",
            f"make it writable, or choose another folder by {where}",
        )
    free = shutil.disk_usage(nearest).free / 1e9
    if free < 1:
        return Finding(name, "note", f"{folder}, {free:.1f} GB free", "free some space")
    return Finding(name, "ok", f"{folder}, {free:.0f} GB free")


def _lab_weights(root: Path = SHIPPED) -> Iterator[Finding]:
    """Whether the shipped lab models are there and unchanged."""
    for name in ("base", "aligned"):
        weights, manifest = root / name / "model.safetensors", root / name / "manifest.json"
        again = "install the package again, or make it with `workbench lab build`"
        try:
            promised = json.loads(manifest.read_bytes())["sha256"]
            found = hashlib.sha256(weights.read_bytes()).hexdigest()
        except (OSError, ValueError, LookupError) as error:
            yield Finding(f"lab:{name}", "problem", f"cannot be read ({error})", again)
            continue
        if found == promised:
            yield Finding(f"lab:{name}", "ok", f"weights as shipped (sha256 {found[:12]}…)")
        else:
            yield Finding(
                f"lab:{name}", "problem", "weights are not those that were shipped", again
            )
