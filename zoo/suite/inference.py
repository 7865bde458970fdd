"""Inference of one model at one size: the rows of `zoo bench` by backend and batch size, and the work."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import ZooError
from zoo.memory import release
from zoo.serve.bench.benchmark import benchmark
from zoo.serve.bench.contender import reason
from zoo.serve.bench.measurement import Settings
from zoo.suite.models import export_model
from zoo.suite.work import BYTES, count_work

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report, Row
    from zoo.suite.models import Exported
    from zoo.suite.part import Figures, Keep
    from zoo.suite.work import Work

log = logging.getLogger(__name__)

BACKENDS = ("eager", "eager-amp", "compile", "compile-amp", "ort:fp32", "ort:fp16", "trt")
QUICK_BACKENDS = ("eager", "eager-amp", "ort:fp32")
"""Compiling takes too long for a quick look."""

SECONDS = 2.0
RUNS = {1: 30}
"""Of each backend at batch 1; at the others `FEWER_RUNS`, as one takes longer."""
FEWER_RUNS = 10
QUICK = {"seconds": 0.02, "min_runs": 10}


def measure(options: dict[str, Any], device: str, keep: Keep) -> Figures:
    """Return `rows` as in `benchmark.json`, why a batch size has none (`failed`), and `work` of an image.

    Each batch size is measured by itself: one that does not fit into memory leaves the smaller ones.

    Args:
        options: `model`, `imgsz`, `batches`, `quick`.
        device: `cpu` or `cuda`.
        keep: told of the rows after each batch size.
    """
    height, width = options["imgsz"]
    imgsz, batches = (height, width), tuple(options["batches"])
    with tempfile.TemporaryDirectory(prefix="zoo-suite-") as name:
        folder = Path(name) / options["model"]
        made = export_model(
            options["model"], imgsz, folder, batches, ("fp32",) if options["quick"] else ("fp32", "fp16")
        )
        figures: Figures = {
            "work": _work(count_work(made.deployable, imgsz), batches),
            "fp32_convolutions": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
            "threads": os.cpu_count() or 1,
            "rows": [],
            "failed": {},
            "missing": made.missing,
        }
        for batch in batches:
            try:
                report = _report(made.bundle, imgsz, batch, device, quick=options["quick"])
            except Exception as error:  # out of memory, say; a runtime raises what it likes
                figures["failed"][str(batch)] = reason(error).replace(f"{name}/", "")
            else:
                figures["rows"] += [_named(row, made, batch).model_dump(mode="json") for row in report.rows]
                figures["gpu_after"] = report.machine.get("gpu_after")
            keep(figures)
            release(torch.device(device))
    if not figures["rows"]:
        raise ZooError(f"{options['model']} ran at no batch size: {'; '.join(figures['failed'].values())}")
    return figures


def _report(bundle: Path, imgsz: tuple[int, int], batch: int, device: str, *, quick: bool) -> Report:
    """Return the benchmark of one batch size."""
    effort = QUICK if quick else {"seconds": SECONDS, "min_runs": RUNS.get(batch, FEWER_RUNS)}
    settings = Settings(
        backends=QUICK_BACKENDS if quick else BACKENDS,
        batches=(batch,),
        imgsz=imgsz,
        data="shapes",
        device=device,
        threads=torch.get_num_threads() if quick else os.cpu_count() or 1,
        images=0,
        quick=quick,
        **effort,
    )
    return benchmark([bundle], settings, lambda text: log.info("%s", text))


def _named(row: Row, made: Exported, batch: int) -> Row:
    """Return a row that names the model of the suite in place of a folder that is gone."""
    why = row.reason and row.reason.replace(f"{made.bundle.parent}/", "")
    if row.end_to_end_ms is None:
        why = made.missing.get(row.name, made.missing.get(row.backend, why))
    artifact = Path(row.artifact or "").name or None
    return row.updated(model=made.bundle.name, artifact=artifact, batch=batch, reason=why)


def _work(work: Work, batches: tuple[int, ...]) -> dict[str, Any]:
    """Return the work of one image and, by batch size and precision, the bytes that are moved."""
    moved = {str(batch): {name: work.bytes_of(batch, name) for name in BYTES} for batch in batches}
    return {**work._asdict(), "bytes": moved}
