"""Latency, throughput and mIoU of models on each backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.tables import Shown, Table
from zoo.errors import ZooError
from zoo.machine import choose_device, cores
from zoo.resolve import ModelLike, is_url, model_text, resolve_model

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report, Settings

log = logging.getLogger(__name__)

QUICK: dict[str, Any] = {"seconds": 0.5, "min_runs": 20, "images": 16, "quick": True}
"""Settings of rough figures."""


@dataclass(frozen=True)
class BenchmarkResult(Shown):
    """Figures of a benchmark, and the files that were written."""

    report: Report
    files: tuple[Path, ...]
    chosen: Mapping[Path, str] = field(default_factory=dict)
    """Name of the backend and precision recorded in each bundle, with `choose`."""

    @property
    def tables(self) -> list[Table]:
        """Return a table for each model, and one of several models side by side."""
        from zoo.serve.bench.report.table import SHORT, comparison, lines

        found = []
        for model, label in self.report.labels().items():
            rows = [row for row in self.report.rows if row.model == model]
            title = f"{label}, threads: {self.report.settings.threads}"
            found.append(Table(title, *lines(rows, SHORT)))
        compared = comparison(self.report)
        return found if compared is None else [*found, Table("Models", *compared)]


def benchmark(
    model: ModelLike | Sequence[str | os.PathLike[str]] = None,
    *,
    backends: str | Sequence[str] | None = None,
    batch: int | Sequence[int] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    data: str | Path | None = None,
    threads: int | None = None,
    device: str | None = None,
    images: int | None = None,
    match_trtexec: bool = False,
    quick: bool = False,
    choose: bool = False,
    report: str | Path | None = None,
    overwrite: bool = False,
    on_event: Callable[[str], None] = log.info,
) -> BenchmarkResult:
    """Measure latency, throughput and mIoU of one or more models on each backend.

    Args:
        model: a run, a bundle, an `.onnx` or `.engine` file, a name in a registry, or several of them, which
            are compared with the first; None for the newest run.
        backends: names such as `ort` or `ort:int8`; None for all whose files exist.
        batch: batch sizes; None for 1.
        imgsz: size of the images; None for the training crop.
        data: data set of the images; None for the model's training data.
        threads: CPU threads of each backend; None for one on each core.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        images: number of labeled images for the mIoU; 0 for no mIoU; None for 64.
        match_trtexec: whether to leave images and masks on the GPU, as `trtexec --noDataTransfers`.
        quick: whether to take rough figures in less time.
        choose: whether to record the fastest of ONNX Runtime and OpenVINO, in fp32 or int8, in each bundle:
            `zoo serve` and `backend="fastest"` take it on this machine.
        report: folder for the report; None for `benchmark/` in the model's folder.
        overwrite: whether to replace files in `report` that zoo did not write.
        on_event: called with a line for each step.

    Raises:
        ZooError: no requested backend can run, or an option that cannot be used.
    """
    several = isinstance(model, Sequence) and not isinstance(model, str)
    models: Sequence[ModelLike] = list(model) if several else [model]  # type: ignore[arg-type,list-item]
    texts = [model_text(each) for each in models]
    if url := next((text for text in texts if text is not None and is_url(text)), None):
        raise ZooError(f"{url} is a server, expected a model: zoo load-test {url} measures servers")
    paths = [resolve_model(text, writable=report is None) for text in texts]

    from zoo.serve.bench.choices import parse_choice
    from zoo.serve.bench.measurement import Settings

    names = backends.split(",") if isinstance(backends, str) else backends
    given: dict[str, Any] = {
        "backends": None if names is None else tuple(parse_choice(name.strip()).name for name in names),
        "batches": (batch,) if isinstance(batch, int) else batch and tuple(batch),
        "imgsz": (imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
        "data": None if data is None else str(data),
        "images": images,
        "match_trtexec": match_trtexec,
    }
    settings = Settings(
        device=choose_device(device),
        threads=threads or cores(),
        **{**(QUICK if quick else {}), **{name: value for name, value in given.items() if value is not None}},
    )
    if choose:
        _check_choice(paths, settings)
    found = _measured(
        paths, settings, None if report is None else Path(report), on_event, overwrite=overwrite
    )
    return replace(found, chosen={path: _choose(path, found.report) for path in paths}) if choose else found


def _check_choice(paths: list[Path], settings: Settings) -> None:
    """Raise if the fastest backend of the CPU cannot be recorded in these models."""
    if settings.device != "cpu":
        raise ZooError(
            f"--choose compares backends of the CPU, got device {settings.device}: use --device cpu"
        )
    for path in paths:
        if not path.is_dir():
            raise ZooError(f"--choose needs a bundle, to which it writes, got {path}: pass its folder")


def _choose(bundle: Path, report: Report) -> str:
    """Record the latencies of a bundle's files in it, and return the name of the fastest."""
    from zoo.predictors.fastest import record

    rows = [row for row in report.rows if row.model == str(bundle) and row.end_to_end_ms is not None]
    batch = min(report.settings.batches)
    ms = {row.name: row.end_to_end_ms.p50 for row in rows if row.end_to_end_ms and row.batch == batch}
    return record(bundle, report.settings.threads, ms).name


def _measured(
    paths: list[Path],
    settings: Settings,
    report: Path | None,
    on_event: Callable[[str], None],
    *,
    overwrite: bool,
) -> BenchmarkResult:
    """Measure models, write the report, and return both.

    Raises:
        ZooError: the report cannot be written, or would overwrite files that zoo did not write.
    """
    from zoo.bundle.bundle import check_writable
    from zoo.card.card import refresh_card
    from zoo.outputs import Outputs
    from zoo.serve.bench.benchmark import benchmark as measure
    from zoo.serve.bench.report.page import NAMES, write_report

    folder = report or default_folder(paths)
    has_card = (folder.parent / "config.json").is_file()
    if has_card and report is None:  # benchmark/ is part of the bundle
        check_writable(folder)
        recording: AbstractContextManager[None] = nullcontext()
    else:
        recording = Outputs(folder, NAMES, "--report", overwrite=overwrite).writing()
    result = measure(paths, settings, on_event)
    with recording:
        files = write_report(result, folder)
    if has_card:  # the card shows the figures
        refresh_card(folder.parent)
    return BenchmarkResult(result, tuple(files))


def default_folder(paths: list[Path]) -> Path:
    """Return `benchmark/` in the bundle of the model, or here for several models."""
    if len(paths) > 1:
        return Path("benchmark")

    from zoo.bundle.bundle import find_bundle

    return (find_bundle(paths[0]) or paths[0].parent) / "benchmark"
