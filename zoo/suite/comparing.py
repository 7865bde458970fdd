"""`zoo compare` as a part: every method on the same labels, in as many slots as it takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.serve.bench.machine import describe_machine, versions
from zoo.train.compare.plan import Request
from zoo.train.compare.record import ComparisonFolder
from zoo.train.compare.report import COLUMNS, cells, failures, write_report
from zoo.train.compare.run_all import Facts, run_all, start
from zoo.train.compare.stats import headline
from zoo.train.loop.engine import TrainingStoppedError

if TYPE_CHECKING:
    from zoo.suite.part import Figures, Keep

log = logging.getLogger(__name__)

SEEDS = (0,)
QUICK: dict[str, Any] = {
    "data.imgsz": [32, 32],
    "data.batch_l": 2,
    "data.workers": 0,
    "network.encoder": "test_resnet",
    "network.decoder.decoder_channels": 16,
    "network.decoder.low_level_channels": 8,
    "network.decoder.rates": [1, 2],
}
QUICK_STEPS = 4


def measure(options: dict[str, Any], device: str, keep: Keep) -> Figures:
    """Return the `rows` of the comparison's table under its `columns`, and the `files` of its report.

    Args:
        options: `data`, `methods`, `partition`, `quick`; `steps`, `imgsz`, `encoder` if it is not quick;
            `work`, the folder of the runs, and `command`, which its report names.
        device: `cpu` or `cuda`.
        keep: told of the runs that are finished where it is ended early.

    Raises:
        ZooError: bad data; a run failed; or it was ended, and goes on the next time.
    """
    folder = ComparisonFolder(Path(options["work"]))
    if not folder.record.is_file():
        facts = Facts(options["command"], describe_machine(), versions())
        folder = start(request(options, device), folder.path, facts)
    try:
        run_all(folder)
    except TrainingStoppedError:
        keep(_figures(folder))
        raise
    figures = _figures(folder)
    keep(figures)
    comparison = folder.read()
    if failed := failures(comparison):
        raise ZooError(f"{len(failed)} of {len(comparison.runs)} runs gave no figures: {'; '.join(failed)}")
    return figures


def request(options: dict[str, Any], device: str) -> Request:
    """Return what is compared: the same for all methods, from random weights."""
    changes = {"data.partition": options["partition"], "pretrained": False}
    if options["quick"]:
        changes |= QUICK
    else:
        changes |= {
            "data.imgsz": options["imgsz"],
            "network.encoder": options["encoder"],
            "precision": "bf16" if device == "cuda" else "fp32",
        }
    steps = QUICK_STEPS if options["quick"] else options["steps"]
    return Request(tuple(options["methods"]), options["data"], SEEDS, (), steps, changes, device)


def _figures(folder: ComparisonFolder) -> Figures:
    """Return what is known of a comparison, and write the report of its finished runs."""
    comparison = folder.read()
    files = write_report(folder, comparison) if comparison.finished else []
    return {
        "headline": headline(comparison) if comparison.finished else "",
        "columns": list(COLUMNS),
        "rows": [list(line) for line in cells(comparison)] if comparison.finished else [],
        "unfinished": failures(comparison),
        "files": [str(path) for path in (*files, folder.record)],
    }
