"""Log of losses and metrics by step, as `log.csv` and for TensorBoard, which resumed runs continue."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from zoo.bundle.bundle import replacing
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, float]

FILTER = "filter/"
"""Prefix of the metrics of pseudo-labels (`zoo.train.loop.filter_quality`)."""
BY_CONFIDENCE = "by_confidence/"
"""Prefix, after `FILTER`, of the metrics of a plain threshold that keeps as many pixels."""


class TrainLog:
    """Writer of rows of named values; missing values are empty in the CSV.

    Args:
        folder: run folder.
        step: step from which the run continues; later rows are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # reading a log needs no torch

        self.path = RunFolder(folder).log
        self.rows = [row for row in read_log(self.path) if row["step"] <= step]
        self.columns = list(dict.fromkeys(key for row in self.rows for key in row))
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._rewrite()

    def write(self, step: int, figures: Row) -> None:
        """Add a row."""
        row = {"step": float(step)} | figures
        self.rows.append(row)
        new = [key for key in row if key not in self.columns]
        self.columns += new
        if new:
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(_text(row))
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self.writer.close()

    def _rewrite(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(_text(row) for row in self.rows)


def read_log(path: Path) -> list[Row]:
    """Return the complete rows of a `log.csv`; empty if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
    return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(whole)]


def figures_over_time(rows: list[Row], prefix: str) -> list[Row]:
    """Return the figures with this prefix, by the rest of their names, and the `step` of each row."""
    found = (
        {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        | {"step": row["step"]}
        for row in rows
    )
    return [row for row in found if len(row) > 1]


def last_figures(rows: list[Row], prefix: str) -> Row | None:
    """Return the last values with a prefix, by name without prefix, and their `step`."""
    found = figures_over_time(rows, prefix)
    return found[-1] if found else None


def _text(row: Row) -> dict[str, str]:
    return {key: f"{value:.0f}" if key == "step" else f"{value:.6g}" for key, value in row.items()}
