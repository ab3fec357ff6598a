"""One invented store and one browser for all tests of figures."""

import pytest

from tests.figures.stores import store
from workbench.figures import FIGURES, Browser, load
from workbench.figures.browser import browser_path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def frames(runs):
    """All rows of all runs."""
    return load(runs, None, {kind for each in FIGURES.values() for kind in each.needs})


@pytest.fixture(scope="session")
def browser():
    if browser_path() is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with Browser() as running:
        yield running
