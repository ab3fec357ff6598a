"""One invented store and one browser for all tests of figures."""

from functools import cache

import pytest

from tests.figures.stores import ARMS, store
from workbench.figures import FIGURES, LIGHT, Browser, load
from workbench.figures.browser import browser_path
from workbench.rows import KINDS

EVERY = tuple(KINDS.values())


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def frames(runs):
    """All rows of all runs."""
    return load(runs, None, {kind for each in FIGURES.values() for kind in each.needs})


@pytest.fixture(scope="session")
def drawn(frames):
    """Draws a figure of all runs in a theme; each once, as no test changes what is drawn."""

    @cache
    def figure(name, theme=LIGHT):
        return FIGURES[name].draw(frames, None, theme)

    return figure


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Makes stores of some arms, seeds and kinds of row; each once, as no test writes to them."""

    @cache
    def made(arms, seeds, kinds=EVERY):
        return store(
            tmp_path_factory.mktemp("small"), {arm: ARMS[arm] for arm in arms}, seeds, kinds
        )

    return made


@pytest.fixture(scope="session")
def browser():
    if browser_path() is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with Browser() as running:
        yield running
