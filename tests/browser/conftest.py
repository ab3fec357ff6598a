"""A real Chromium on a real server; every page is watched for errors and for requests elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.app import stores
from tests.figures import stores as figures

playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")

PATIENCE = 60_000
"""How long anything may take before a test fails (ms); machines are shared."""
playwright.expect.set_options(timeout=PATIENCE)

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "screenshots"
"""Where the tests leave pictures for people; not in the repository."""
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests."""
    if CHROMIUM is None:
        pytest.skip("needs a system Chromium: apt-get install chromium fonts-liberation")
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def served(*arguments):
    """`python -m app` in a process of its own; gives the printed address."""
    command = [sys.executable, "-m", "app", *map(str, arguments), "--port", "0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = ""
            while (found := re.search(r"http://\S+", said)) is None:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                said += line
            yield found.group(0)
        finally:
            process.terminate()
            errors = process.communicate(timeout=30)[1]
    assert "Traceback" not in errors, errors


def _store_fixture(name, make):
    @pytest.fixture(scope="session", name=name)
    def fixture(tmp_path_factory):
        root = tmp_path_factory.mktemp(name)
        make(root)
        with served(root) as address:
            yield address

    return fixture


full = _store_fixture("full", stores.full)
troubled = _store_fixture("troubled", stores.troubled)
hostile = _store_fixture("hostile", stores.hostile)
empty = _store_fixture("empty", lambda root: None)
rowless = _store_fixture("rowless", stores.rowless)
tried = _store_fixture("tried", figures.tried)
terms = _store_fixture("terms", figures.store)


@pytest.fixture(scope="session")
def example():
    """The shipped example, as `python -m app` shows it."""
    with served() as address:
        yield address


class Watched:
    """A page whose errors and requests are noted."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.home = address.split("?")[0]
        self.errors, self.elsewhere = [], []
        page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)
        page.set_default_timeout(PATIENCE)

    def _request(self, request):
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(self, path="", query=""):
        """Go to a page with the token, and wait until it is drawn."""
        token = self.address.split("?")[1]
        self.page.goto(f"{self.home}{path}?{query}{'&' if query else ''}{token}")
        self.settled()
        return self.page

    def settled(self):
        """Wait until nothing is being loaded or drawn."""
        expect = playwright.expect
        expect(self.page.locator("#page > *").first).to_be_attached()
        expect(self.page.locator(".mantine-Skeleton-root[data-visible=true]")).to_have_count(0)
        expect(self.page.locator("[data-dash-is-loading=true]")).to_have_count(0)

    def until(self, read, wanted):
        """Wait until what `read` gives is wanted; the policy forbids to ask this in the page."""
        for _ in range(PATIENCE // 50):
            if wanted(value := read()):
                return value
            self.page.wait_for_timeout(50)
        raise AssertionError(f"after {PATIENCE} ms it is still {value!r}")

    def picture(self, name):
        """A screenshot for people."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(250)  # Mantine's transitions
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@pytest.fixture
def visit(chromium):
    """Open pages; at the end none may have had an error or asked anybody else for anything."""
    contexts, pages = [], []

    def watch(address, width=1440, height=900, **more):
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        pages.append(Watched(context.new_page(), address))
        return pages[-1]

    yield watch
    for context in contexts:
        context.close()
    assert [page.errors for page in pages if page.errors] == []
    assert [page.elsewhere for page in pages if page.elsewhere] == []


def card(page, figure):
    """The card of one figure."""
    return page.locator(f"""[id='{{"figure":"{figure}","type":"card"}}']""")
