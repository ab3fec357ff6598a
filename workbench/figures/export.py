"""Figures as files for a paper: pictures, the tidy data behind them, and where both come from.

DIR/<figure>-<venue>-<width>.pdf|svg|png   provenance inside; only with a browser
DIR/<figure>.parquet, <figure>.csv         the table that was drawn
DIR/<figure>.figure.json                   the figure, for plotly in any language
DIR/<figure>.provenance.json               runs, hashes, versions, parameters, command, time
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import provenance
from workbench.errors import RunError
from workbench.figures._base import Figure
from workbench.figures._frames import Frames
from workbench.figures._layout import width
from workbench.figures._params import Params
from workbench.figures._style import Theme
from workbench.figures.browser import Browser, BrowserError, Format, browser_version
from workbench.figures.stamps import stamp, with_stable_ids
from workbench.files import now, replacing, write_json

FORMATS: tuple[Format, ...] = ("pdf", "svg", "png")
LIBRARIES = ("kaleido", "numpy", "pandas", "plotly", "scipy")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote, and why pictures are missing if they are."""

    figure: str
    files: tuple[Path, ...]
    problem: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Run id to the reason it is not shown."""


def export(
    figure: Figure,
    frames: Frames,
    directory: Path,
    theme: Theme,
    browser: Browser,
    *,
    params: Params | Mapping[str, Any] | None = None,
    formats: Sequence[Format] = FORMATS,
    command: str | None = None,
) -> Exported:
    """Write one figure with its data and its provenance.

    Without a browser everything but the pictures is written, and `problem` says what to do.

    Args:
        figure: from `FIGURES`.
        frames: rows of at least the kinds it needs.
        directory: made if it does not exist.
        theme: a venue's, from `workbench.figures.venues.paper`.
        browser: draws the pictures; one serves any number of figures.
        params: the figure's parameters, or a mapping of those that are not default.
        formats: kinds of picture.
        command: the command line, for the record.

    Raises:
        RunError: the runs have no rows for this figure (the message says what writes them), or a
            file cannot be written.
        InvalidValueError: a parameter out of range.
    """
    chosen = figure.given(params)
    table = figure.data(frames, chosen)
    if not len(table):
        raise RunError(f"{figure.name} cannot be drawn. {figure.missing(frames, chosen)}")
    drawn = with_stable_ids(figure.draw_table(table, frames, chosen, theme))
    record = origin(figure, frames, chosen, theme)
    files = _write_data(directory, figure.name, table, drawn, record, command)
    problem = None
    try:
        for form in formats:
            path = directory / f"{figure.name}-{theme.name}.{form}"
            _write(path, picture(drawn, form, record, browser))
            files.append(path)
    except BrowserError as error:
        problem = str(error)
    return Exported(
        figure=figure.name, files=tuple(files), problem=problem, left_out=frames.left_out
    )


def picture(drawn: go.Figure, form: Format, record: Mapping[str, Any], browser: Browser) -> bytes:
    """A drawn figure as a file's bytes, with its provenance inside.

    Raises:
        BrowserError: there is no browser, or it does not draw.
    """
    across = record["width_px"]
    made = browser.picture(
        with_stable_ids(drawn), form, across, across * drawn.layout.meta["aspect"]
    )
    return stamp(made, form, record)


def origin(figure: Figure, frames: Frames, params: Params, theme: Theme) -> dict[str, Any]:
    """Where a figure comes from. No prompt text, no path, no time: equal pictures, equal bytes."""
    return {
        "figure": figure.name,
        "params": asdict(params),
        "theme": theme.name,
        "width_px": width(theme),
        "runs": {
            run.id: {"arm": run.arm, "seed": run.seed, "hashes": run.hashes, "git": run.git}
            for run in frames.runs
        },
        "left_out": sorted(frames.left_out),
        "git": provenance.git_state(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "browser": browser_version(),
    }


def _write_data(
    directory: Path,
    name: str,
    table: pd.DataFrame,
    drawn: go.Figure,
    record: Mapping[str, Any],
    command: str | None,
) -> list[Path]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {directory}: {error.strerror}.") from error
    files = [directory / f"{name}.{end}" for end in
             ("parquet", "csv", "figure.json", "provenance.json")]  # fmt: skip
    with replacing(files[0], durable=False) as file:
        table.to_parquet(file, index=False)
    _write(files[1], table.to_csv(index=False).encode())
    _write(files[2], drawn.to_json(engine="json").encode())
    write_json(files[3], {**record, "command": command, "time": now()}, durable=False)
    return files


def _write(path: Path, content: bytes) -> None:
    with replacing(path, durable=False) as file:
        file.write(content)
