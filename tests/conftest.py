"""Every test runs offline, on one torch thread."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

try:
    import torch
except ModuleNotFoundError:  # the torch-free environment runs the tests of figures and app
    pass
else:
    torch.set_num_threads(1)


# No test survives a power cut, so nothing waits for the disk (what runs in other processes does).
os.fsync = lambda _file: None


def pytest_configure(config):
    """Our own warnings are errors (set here: in pyproject it would import us before the hook)."""
    config.addinivalue_line("filterwarnings", "error::workbench.errors.WorkbenchWarning")


LONGEST = (
    "lab/test_rebuild.py",
    "results/test_campaign.py",
    "test_execution.py",
    "test_notebooks.py",
    "test_benchmarks.py",
)
"""Files that take minutes: begun first, or at the end one process would wait for the other."""


def pytest_collection_modifyitems(items):
    """The longest files first, then the others with slow tests, then the rest."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item):
        named = [i for i, name in enumerate(LONGEST) if str(item.path).endswith(name)]
        return named[0] if named else len(LONGEST) + (item.path not in slow)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """Nothing a test builds lands in the user's cache."""
    if "WORKBENCH_TEST_CACHE" in os.environ:  # lets a developer keep what slow tests build
        monkeypatch.setenv("WORKBENCH_CACHE", os.environ["WORKBENCH_TEST_CACHE"])
    else:
        monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
