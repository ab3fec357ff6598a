"""Run benchmarks: `python -m benchmarks [NAME ...] [--quick] [--list] [--table] [-o FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from benchmarks import (
    circuit_breakers,
    demo,
    drift_map,
    generation,
    linear_probes,
    recording,
    rep_noise,
    report,
    storage,
    t_vaccine,
    token_gradients,
    training,
    vocabulary,
)
from benchmarks.alone import alone
from benchmarks.table import Bench, Row

BENCHES: tuple[Bench, ...] = (
    *recording.BENCHES,
    *storage.BENCHES,
    *training.BENCHES,
    *t_vaccine.BENCHES,
    *circuit_breakers.BENCHES,
    *rep_noise.BENCHES,
    *drift_map.BENCHES,
    *token_gradients.BENCHES,
    *vocabulary.BENCHES,
    *linear_probes.BENCHES,
    *generation.BENCHES,
    *demo.BENCHES,
)
ROWS: dict[str, Row] = {row.name: row for bench in BENCHES for row in bench.rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns the exit code (1 if a measurement failed)."""
    given = _parser().parse_args(arguments)
    if given.list:
        for row in ROWS.values():
            print(f"{row.name:36} {report.goal(row):14} {row.measured}")
        return 0
    if given.table:
        print(report.write_table(report.read(given.output or report.RESULTS), ROWS))
        return 0
    output = given.output or (None if given.quick else report.RESULTS)
    failed = False
    for bench in _chosen(given.names):
        try:
            figures = alone(bench, given.quick)
        except Exception as error:  # one row's failure must not lose the others
            print(f"{', '.join(row.name for row in bench.rows)} failed: {error!r}", file=sys.stderr)
            failed = True
            continue
        for row, figure in zip(bench.rows, figures, strict=True):
            print(report.line(row, figure, given.quick), flush=True)
        if output is not None:
            fresh = [report.result(r, f) for r, f in zip(bench.rows, figures, strict=True)]
            report.keep(output, fresh, list(ROWS))
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows; none: all quick ones")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--list", action="store_true", help="list the rows and their goals")
    parser.add_argument("--table", action="store_true", help="write the README's table anew")
    parser.add_argument("-o", "--output", type=Path, help=f"results file ({report.RESULTS.name})")
    return parser


def _chosen(names: Sequence[str]) -> list[Bench]:
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        near = get_close_matches(unknown[0], ROWS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SystemExit(f"no row called {unknown[0]!r}.{hint} See --list.")
    if not names:
        return [bench for bench in BENCHES if not bench.on_request]
    return [b for b in BENCHES if any(row.name in names for row in b.rows)]


if __name__ == "__main__":
    sys.exit(main())
