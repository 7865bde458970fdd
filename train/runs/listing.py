"""Listing of the runs under a folder, from their small files, without loading torch or networks."""

from __future__ import annotations

import csv
import datetime
import json
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import BundleError
from zoo.evaluation.figures import MASKS, TAGS
from zoo.train.runs.folder import RunFolder
from zoo.train.runs.record import RunRecord, State, last_written, read_record

PLACES = ("", "*/", "*/runs/*/")
"""Patterns of run folders under a folder: itself, those of `zoo train`, those of `zoo compare`."""
TAIL = 2**16
"""Bytes at the end of a log that are searched for the last evaluation."""


class Run(NamedTuple):
    """A row in the table of runs.

    Args:
        path: path of the run folder.
        method: name of the method.
        data: spec of the data.
        partition: digest of the lists of labeled and unlabeled images; None before they are written.
        labeled: number of labeled images; None before the lists are written.
        seed: seed of the run.
        step: last known step.
        steps: number of steps of the whole run.
        state: state of the last attempt; `unknown` for an unfinished run of an older version, without a
            record.
        reason: reason for an end before the last step.
        figure: name of the main metric.
        value: main metric at the last evaluation or, for a finished run with `select_on`, at the selected
            step; None before the first evaluation.
        evaluated: step of that evaluation.
        protocol: protocol and split of that evaluation.
        begun: start of the run in UTC, ISO 8601.
        seconds: total duration of all attempts; an attempt that was killed counts up to its last file.
    """

    path: str
    method: str
    data: str
    partition: str | None
    labeled: int | None
    seed: int
    step: int
    steps: int
    state: State | str
    reason: str | None
    figure: str
    value: float | None
    evaluated: int | None
    protocol: str
    begun: str
    seconds: float


def find_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Return the runs under a folder, newest first, and the errors of those that cannot be read."""
    runs, unreadable = list[Run](), list[str]()
    for path in sorted(
        {path.parent for place in PLACES for path in folder.glob(f"{place}{RunFolder(Path()).recipe_file}")}
    ):
        try:
            runs.append(read_run(path))
        except BundleError as error:
            unreadable.append(str(error))
    return sorted(runs, key=lambda run: (run.begun, run.path), reverse=True), unreadable


def read_run(folder: Path) -> Run:
    """Return the row of a run.

    Raises:
        BundleError: its recipe or its record cannot be read.
    """
    recipe = _recipe(folder)
    record = read_record(folder)
    last = record.last if record else None
    row, evaluated = last_figures(RunFolder(folder).log)
    figures = next((each for each in (MASKS, TAGS) if f"val/{each.main}" in evaluated), MASKS)
    partition = _partition(folder)
    kept = _kept(folder) if recipe.get("select_on") else {}
    step = max(int(row.get("step", 0)), last.last or last.first if last else 0)
    return Run(
        path=str(folder),
        method=recipe["method"]["name"],
        data=recipe["data"]["spec"],
        partition=partition.get("digest"),
        labeled=partition.get("counts", {}).get("labeled"),
        seed=recipe["seed"],
        step=step,
        steps=recipe["steps"],
        state=last.state if last else _old_state(folder),
        reason=last.reason if last else None,
        figure=figures.overall[figures.main],
        value=kept.get("val", {}).get(figures.main) or evaluated.get(f"val/{figures.main}"),
        evaluated=kept.get("selected", {}).get("step") or (int(evaluated["step"]) if evaluated else None),
        protocol=_protocol(record),
        begun=record.attempts[0].begun
        if record and record.attempts
        else _written(RunFolder(folder).recipe_file),
        seconds=_seconds(folder, record),
    )


def last_figures(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the last row of a `log.csv`, and the last row with an evaluation; empty if there is none."""
    if not path.is_file():
        return {}, {}
    with path.open("rb") as file:
        columns = next(csv.reader([file.readline().decode("utf-8")]), [])
        start = file.tell()
        file.seek(max(start, path.stat().st_size - TAIL))
        cut = file.tell() > start
        lines = (
            file.read().decode("utf-8", errors="replace").split("\n")[cut:-1]
        )  # the last row may be incomplete
    split = (line.rstrip("\r").split(",") for line in reversed(lines))  # numbers are never quoted
    newest, rows = tee(cells for cells in split if len(cells) == len(columns))
    figures = [index for index, name in enumerate(columns) if name.startswith("val/")]
    evaluated = next((cells for cells in rows if any(cells[index] for index in figures)), None)
    return _row(columns, next(newest, None)), _row(columns, evaluated)


def _row(columns: list[str], cells: list[str] | None) -> dict[str, float]:
    if cells is None:
        return {}
    return {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}


def _recipe(folder: Path) -> dict[str, Any]:
    path = RunFolder(folder).recipe_file
    try:
        recipe: dict[str, Any] = json.loads(path.read_bytes())["recipe"]
        if recipe["method"]["name"] and recipe["data"]["spec"] and {"seed", "steps"} <= recipe.keys():
            return recipe
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not the recipe of a run ({error!r}): remove the folder") from error
    raise BundleError(f"{path} is not the recipe of a run: remove the folder")


def _partition(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((RunFolder(folder).partition / "partition.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return record


def _kept(folder: Path) -> dict[str, Any]:
    """Return the metrics of a run with `select_on`; empty before its end."""
    try:
        metrics: dict[str, Any] = json.loads(RunFolder(folder).metrics.read_bytes())
    except (OSError, ValueError):
        return {}
    return metrics


def _protocol(record: RunRecord | None) -> str:
    return f"{record.protocol} on {record.split}" if record else "whole on val"


def _old_state(folder: Path) -> str:
    return "finished" if RunFolder(folder).metrics.is_file() else "unknown"


def _seconds(folder: Path, record: RunRecord | None) -> float:
    """Return the training time of a run; without a record, the time up to its last file."""
    if record is None or not record.attempts:
        return _between(_written(RunFolder(folder).recipe_file), last_written(folder))
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return sum(_between(each.begun, each.ended or now) for each in record.attempts)


def _between(begun: str, ended: str) -> float:
    start, end = (datetime.datetime.fromisoformat(text).timestamp() for text in (begun, ended))
    return round(max(0.0, end - start), 1)


def _written(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
