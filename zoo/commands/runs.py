"""`zoo runs`: table of runs with their states. `zoo report`: report page of one run."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.commands.console import AsJson, emit, remarks, table
from zoo.errors import BundleError
from zoo.resolve import RUNS, newest_run

if TYPE_CHECKING:
    from zoo.train.runs.listing import Run

COLUMNS = (
    "run", "method", "data", "labels", "seed", "steps", "state", "figure on val", "begun", "took",
)  # fmt: skip
ABSENT = "\N{EN DASH}"


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of runs, or a run.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """List the runs under DIR, newest first: state, steps and the figure of the last evaluation."""
    from zoo.train.runs.listing import find_runs

    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder, expected one with runs: zoo train eln makes one")
    found, unreadable = find_runs(folder)
    for line in unreadable:
        remarks.print(f"skipped: {line}")
    protocols = sorted({run.protocol for run in found})
    title = f"{len(found)} runs under {folder}; figures of the last evaluation: {', '.join(protocols)}"
    shown = (
        [table(title, COLUMNS, [_line(run, folder) for run in found])] if found else [f"No runs in {folder}"]
    )
    reasons = [f"{run.path}: {run.state}: {run.reason}" for run in found if run.reason]
    emit([run._asdict() for run in found], *shown, *reasons, as_json=as_json)


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run; default: the newest under runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite report.html of RUN: curves, classes, pictures, recipe, versions, and how each attempt ended."""
    from zoo.train.report.page import write_report

    path = write_report(run or newest_run())
    emit({"report": str(path)}, f"Wrote {path}", as_json=as_json)


def _line(run: Run, folder: Path) -> tuple[str, ...]:
    from zoo.evaluation.figures import duration

    path = Path(run.path)
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    begun = datetime.datetime.fromisoformat(run.begun).astimezone()
    labels = ABSENT if run.partition is None else f"{run.labeled} ({run.partition})"
    value = ABSENT if run.value is None else f"{run.figure} {run.value:.3f} at {run.evaluated}"
    return (
        name,
        run.method,
        run.data,
        labels,
        str(run.seed),
        f"{run.step}/{run.steps}",
        run.state,
        value,
        f"{begun:%Y-%m-%d %H:%M}",
        duration(run.seconds),
    )
