"""The benchmarks: their statistics against known distributions, their results, their rows."""

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import demo, report
from benchmarks.__main__ import BENCHES, ROWS, main
from benchmarks.measure import Figure, Paired, interleaved, peak_live_bytes, upper_bound
from benchmarks.table import Row

FIELDS = ["name", "value", "upper95", "unit", "goal", "better", "ours", "peer", "peer_name",
          "limit", "limit_value", "configuration", "commit", "machine", "versions"]  # fmt: skip


def paired(ours, peer):
    sides = [{"cpu": np.array(x, float), "wall": 2 * np.array(x, float)} for x in (ours, peer)]
    return Paired(*sides, "cpu")


def test_the_bound_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = np.exp(rng.normal(0, 0.1, (300, 40)))  # lognormal: the median is 1
    covered = np.mean([upper_bound(x) >= 1 for x in samples])
    assert 0.91 <= covered <= 0.985  # nominal 0.95; the percentile bootstrap is near it


def test_the_bound_is_above_the_median_and_within_the_sample():
    x = np.random.default_rng(0).exponential(size=30)
    assert np.median(x) < upper_bound(x) < x.max()
    assert upper_bound(np.full(5, 1.25)) == 1.25


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=12), st.floats(0.1, 10))
def test_drift_common_to_both_leaves_the_ratio_alone(drift, ratio):
    figure = paired([ratio * d for d in drift], drift).figure({})
    assert figure.value == pytest.approx(ratio)
    assert figure.upper95 == pytest.approx(ratio)


def test_figure_takes_ratios_before_medians():
    figure = paired([1, 4, 9], [1, 2, 3]).figure({"x": 1}, amount=12)
    assert (figure.value, figure.ours, figure.peer) == (2, 3, 6)
    assert figure.configuration["x"] == 1
    assert figure.configuration["wall_clock_ratio"] == 2
    assert paired([1, 4, 9], [1, 2, 3]).figure({}, inverse=True).value == 0.5


def test_grouped_rounds_are_summed():
    figure = paired([1, 5, 1, 5], [1, 1, 1, 1]).grouped(2).figure({})
    assert (figure.value, figure.ours, figure.configuration["rounds"]) == (3, 6, 2)


def test_interleaved_alternates_the_order_and_counts_no_warm_up():
    calls = []
    times = interleaved(
        lambda: calls.append("ours"),
        lambda: calls.append("peer"),
        rounds=4,
        warmup=2,
        calls=1,
        before=lambda: calls.append("-"),
    )
    assert [a + b for a, b in zip(calls[::2], calls[1::2], strict=True)] == [
        f"-{x}" for k in range(6) for x in (("ours", "peer") if k % 2 else ("peer", "ours"))
    ]
    assert times.ours["cpu"].shape == times.peer["wall"].shape == (4,)


def test_twice_the_work_takes_twice_the_cpu_time():
    def work(n):
        return lambda: sum(range(n))

    figure = interleaved(work(400_000), work(200_000), rounds=15).figure({})
    assert 1.6 < figure.value < 2.5


def test_waiting_counts_on_the_wall_clock_only():
    times = interleaved(lambda: time.sleep(0.01), lambda: sum(range(1000)), rounds=3)
    assert times.ours["wall"].min() >= 0.01 > times.ours["cpu"].max()


def test_peak_of_live_bytes():
    def work():
        kept = torch.ones(250_000)  # 1 MB
        for _ in range(3):
            kept = kept + torch.ones(500_000).sum()  # 2 MB and the old and the new 1 MB, at most

    assert 3e6 <= peak_live_bytes(work) <= 3.01e6


@pytest.mark.parametrize(
    ("row", "value", "upper95", "met"),
    [
        (Row("a", "", goal=1.05), 1.05, 1.2, True),
        (Row("a", "", goal=1.05, bound=True), 1.04, 1.06, False),
        (Row("a", "", goal=0.7, better="higher"), 0.69, 0.8, False),
        (Row("a", "", goal=5, bound=True), 5, None, True),
    ],
)
def test_goals(row, value, upper95, met):
    assert row.met(value, upper95) is met


def made(value=1.2, **changes):
    figure = Figure(value, value + 0.1, 0.5, 0.4, 1.0, {"model": "tiny"})
    row = next(iter(ROWS.values()))
    return report.result(row, figure) | changes


def test_a_result_has_exactly_the_declared_fields_in_plain_json():
    result = made()
    assert list(result) == FIELDS
    assert json.loads(json.dumps(result)) == result
    assert {"torch", "transformers", "transformer-lens", "nnsight"} <= set(result["versions"])


def test_results_measured_again_replace_the_old_ones_and_no_others(tmp_path):
    path, names = tmp_path / "results.json", list(ROWS)
    report.keep(path, [made(name=names[1]), made(name=names[0])], names)
    report.keep(path, [made(7.0, name=names[1])], names)
    assert [(r["name"], r["value"]) for r in report.read(path)] == [(names[0], 1.2), (names[1], 7)]


def test_the_table_says_why_a_goal_is_missed():
    row = Row("a", "what", goal=1.05, reason="because of the weather")
    text = report.table([made(name="a")], {"a": row})
    assert "| no |" in text
    assert "`a`: because of the weather" in text
    assert "weather" not in report.table([made(1.0, name="a")], {"a": row})


def test_the_readme_shows_the_results_that_are_kept():
    results = report.read(report.RESULTS)
    assert results
    assert report.table(results, ROWS) in report.README.read_text()
    for result in results:
        assert list(result) == FIELDS
        row = ROWS[result["name"]]
        if not row.met(result["value"], result["upper95"]):
            assert row.reason, f"{row.name} misses its goal and nobody says why"


def test_list(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ROWS)


def test_an_unknown_row_is_refused_with_a_suggestion():
    with pytest.raises(SystemExit, match=r"'vaccine_step'.*Did you mean 'vaccine_step_ratio'"):
        main(["vaccine_step"])


def test_a_demo_that_fails_is_no_figure(tmp_path):
    with pytest.raises(RuntimeError, match="failed"):
        demo.run_demo(tmp_path, ("no seed",))


@pytest.mark.slow
@pytest.mark.parametrize(
    "bench", [b for b in BENCHES if not b.on_request], ids=lambda bench: bench.rows[0].name
)
def test_every_row_runs(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures = bench.measure(True)
    assert len(figures) == len(bench.rows)
    for row, figure in zip(bench.rows, figures, strict=True):
        assert 0 < figure.value < float("inf")
        assert figure.upper95 is None or figure.upper95 >= figure.value
        json.dumps(report.result(row, figure))


@pytest.mark.slow
def test_a_row_is_measured_alone_and_kept_where_asked(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert main(["record_memory_overhead_mb", "--quick", "-o", str(path)]) == 0
    (result,) = report.read(path)
    assert result["name"] == "record_memory_overhead_mb"
    assert "record_memory_overhead_mb" in capsys.readouterr().out
