"""Rows about the dashboard in a real Chromium: `python -m benchmarks.app`, or by name.

One server process, one browser. Times are what a reader waits: from the click to the drawn page.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import report
from benchmarks.measure import Figure, upper_bound
from benchmarks.table import Bench, Row

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "app" / "example_store"
OUTPUT = ROOT / "build" / "bench-app.json"
RUNS = 1000
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
MOVE = """(name) => new Promise((done, failed) => {
  const thumb = document.querySelector(`#${name} [role=slider]`);
  const wanted = "φ=" + (Math.round(100 * thumb.ariaValueNow) + 1) / 100;
  const said = () => document.querySelector("#verdicts .provenance").textContent.includes(wanted);
  const watch = new MutationObserver(() => {
    if (!said()) return;
    watch.disconnect();
    requestAnimationFrame(() => done(performance.now() - began));
  });
  watch.observe(document.querySelector("#verdicts"), {subtree: true, childList: true,
                                                      characterData: true});
  setTimeout(() => failed("not judged anew: " + wanted), 5000);
  const began = performance.now();
  thumb.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", code: "ArrowRight",
                                                    bubbles: true}));
})"""
"""One step of a slider by the keyboard, in milliseconds until the verdicts have followed."""


def pages(quick: bool) -> list[Figure]:
    """First page, page switch, slider and memory, over the shipped example."""
    rounds = 1 if quick else 7
    with _served(EXAMPLE) as (address, process), _browser() as browser:
        first = [_first_page(browser, address) for _ in range(rounds)]
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        _open(page, address)
        switches = [t for _ in range(rounds) for t in _switches(page)]
        page.get_by_role("link", name="Overview", exact=True).click()
        page.locator("#matrix").wait_for()
        page.wait_for_timeout(500)
        page.locator("#phi [role=slider]").press("Home")
        page.wait_for_timeout(500)
        moves = [page.evaluate(MOVE, "phi") for _ in range(5 if quick else 80)]
        memory = psutil.Process(process.pid).memory_info().rss / 1e6
    return [
        _figure(first, {"what": "empty browser cache, until the verdicts are there"}),
        _figure(switches, {"what": "from the click until the figure is drawn, three pages"}),
        Figure(float(np.quantile(moves, 0.95)), ours=float(np.median(moves)),
               configuration={"moves": len(moves), "median_ms": round(float(np.median(moves)), 1),
                              "load_of_other_jobs": round(os.getloadavg()[0], 1)}),
        Figure(memory, configuration={"what": "resident, after all pages were opened"}),
    ]  # fmt: skip


def listing(quick: bool) -> list[Figure]:
    """From the click on Runs to the rows of a store of a thousand runs, headers cold."""
    times = []
    for _ in range(1 if quick else 5):
        with tempfile.TemporaryDirectory() as folder:
            _many(Path(folder), 50 if quick else RUNS)
            with _served(Path(folder)) as (address, _), _browser() as browser:
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                _open(page, address)
                row = page.locator(".ag-center-cols-container .ag-row").first
                times.append(_timed(page.locator("#runs-open").click, row.wait_for))
    return [_figure(times, {"runs": RUNS})]


def _figure(times: list[float], how: dict[str, Any]) -> Figure:
    load = round(os.getloadavg()[0], 1)
    found = np.array(times)
    bound = upper_bound(found) if len(found) > 1 else None
    how |= {"clock": "wall", "rounds": len(found), "load_of_other_jobs": load}
    return Figure(float(np.median(found)), bound, ours=float(np.median(found)), configuration=how)


def _first_page(browser: Any, address: str) -> float:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    taken = _timed(lambda: page.goto(address), page.locator("#matrix").wait_for)
    context.close()
    return taken


def _open(page: Any, address: str) -> None:
    page.goto(address)
    page.locator("#matrix").wait_for()
    page.wait_for_timeout(1000)


def _switches(page: Any) -> Iterator[float]:
    for name in ("Resistance", "Tokens", "Drift"):
        link = page.get_by_role("link", name=name, exact=True)
        drawn = page.locator(".js-plotly-plot :is(.scatterlayer .trace, .heatmaplayer image)").first
        page.get_by_role("link", name="Overview", exact=True).click()
        page.locator("#matrix").wait_for()
        page.wait_for_timeout(300)
        yield _timed(link.click, drawn.wait_for)


def _timed(start: Callable[[], object], ended: Callable[[], object]) -> float:
    began = time.perf_counter()
    start()
    ended()
    return time.perf_counter() - began


def _many(root: Path, count: int) -> None:
    """A store of the example's runs and headers of many more seeds."""
    shutil.copytree(EXAMPLE, root, dirs_exist_ok=True)
    header = json.loads(next(EXAMPLE.glob("*.sft*/run.json")).read_text())
    for i in range(count - len(list(root.iterdir()))):
        folder = root / f"{header['arm']}-s{i + 100}.sft"
        folder.mkdir()
        text = json.dumps(header | {"id": folder.name, "seed": i + 100})
        (folder / "run.json").write_text(text)


@contextmanager
def _served(store: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    command = [sys.executable, "-m", "app", str(store), "--port", "0"]
    usual = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    with subprocess.Popen(command, cwd=ROOT, env=usual, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        try:
            found = None
            while found is None:
                if not (line := made.stdout.readline()):
                    raise RuntimeError("`python -m app` ended at once")
                found = re.search(r"http://\S+", line)
            yield found.group(0), made
        finally:
            made.terminate()


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("needs a system Chromium: apt-get install chromium fonts-liberation")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


BENCHES = (
    Bench(
        (
            Row("app_first_page_s", "dashboard: first page, cold browser", goal=2.5, unit="s"),
            Row("app_page_switch_s", "dashboard: to another page, drawn", goal=1, unit="s"),
            Row(
                "app_slider_p95_ms", "dashboard: a threshold moved, verdicts judged anew, p95",
                goal=100, unit="ms", sides="ms",
            ),
            Row("app_server_mb", "dashboard: memory of the server", goal=400, unit="MB"),
        ),
        pages,
        on_request=True,
    ),
    Bench(
        (Row("app_list_1000_runs_s", "dashboard: a thousand runs listed", goal=1, unit="s"),),
        listing,
        on_request=True,
    ),
)  # fmt: skip


def main() -> int:
    """Measure all rows, print them, and keep them in `build/bench-app.json`."""
    names = [row.name for bench in BENCHES for row in bench.rows]
    OUTPUT.parent.mkdir(exist_ok=True)
    for bench in BENCHES:
        for row, figure in zip(bench.rows, bench.measure(False), strict=True):
            print(report.line(row, figure, quick=False), flush=True)
            report.keep(OUTPUT, [report.result(row, figure)], names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
