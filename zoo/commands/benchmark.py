"""`zoo bench`: latency, throughput and mIoU of a model on each backend."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.arguments import DeviceOption, parse_size
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.errors import ZooError
from zoo.machine import choose_device, cores
from zoo.predictors.backends import BACKENDS
from zoo.resolve import is_name, is_url, resolve_bundle, resolve_model

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report, Settings

DEFAULT_BATCH = "1"
QUICK: dict[str, Any] = {"seconds": 0.5, "min_runs": 20, "images": 16, "quick": True}


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Runs, bundles, .onnx or .engine files; the others are compared with the first; "
            "default: the newest run under runs/.",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            metavar="ort,trt:fp16",
            help=f"Backends: {', '.join(BACKENDS.built_in)} or a plugin's; NAME:PRECISION, e.g. ort:int8, "
            "selects one precision of the exported files; default: all whose files exist. eager and "
            "eager-amp are always measured.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="1,8", help="Batch sizes.")] = DEFAULT_BATCH,
    imgsz: Annotated[
        str | None, typer.Option(metavar="H,W", help="Size of the images; default: the training crop.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Data set of the images; default: the model's training data."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads per backend; default: one per core.")
    ] = None,
    device: DeviceOption = None,
    images: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Labeled val images for the mIoU; default: 64; 0: no mIoU."),
    ] = None,
    match_trtexec: Annotated[
        bool,
        typer.Option(
            "--match-trtexec",
            help="Leave images and masks on the GPU and enqueue one query ahead, like trtexec "
            "--noDataTransfers, "
            "so that GPU compute, enqueue and throughput are comparable with its output.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Rough figures: 0.5 s, 20 runs and 16 images instead of 3 s, 100 and 64; no compile.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for benchmark.html, .json, .md and .png; default: benchmark/ in the model's folder.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure latency, throughput and mIoU of models on each backend.

    The backends take turns on the same images, and the mIoU is that of the very file that is timed.
    """
    if url := next(filter(is_url, models or ()), None):
        raise typer.BadParameter(
            f"{url} is a server, expected a model: zoo load-test {url} measures servers", param_hint="MODEL"
        )
    size = None if imgsz is None else parse_size(imgsz)
    paths = [_resolve(model, writable=report is None) for model in models or (None,)]

    from zoo.serve.bench.measurement import Settings

    effort = QUICK if quick else {}
    effort = effort if images is None else effort | {"images": images}
    settings = Settings(
        backends=None if backends is None else parse_backends(backends),
        batches=parse_batches(batch),
        imgsz=size,
        data=data,
        device=choose_device(device),
        threads=threads or cores(),
        match_trtexec=match_trtexec,
        **effort,
    )
    result, files = _measured(paths, settings, report, overwrite=overwrite)
    emit(result.model_dump(mode="json"), *_show(result, files), as_json=as_json)


def _measured(
    paths: list[Path], settings: Settings, report: Path | None, *, overwrite: bool
) -> tuple[Report, list[Path]]:
    """Measure models, write the report, and return it with its files.

    Raises:
        ZooError: the report cannot be written, or would overwrite files that zoo did not write.
    """
    from rich.text import Text

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
    with remarks.status("loading") as status:
        result = measure(paths, settings, lambda text: status.update(Text(text)))
    with recording:
        files = write_report(result, folder)
    if has_card:  # the card shows the figures
        refresh_card(folder.parent)
    return result, files


def _resolve(model: str | None, *, writable: bool) -> Path:
    """Return the path of a model; for a pulled model, that of a copy if files are written to it."""
    return (
        resolve_bundle(model) if writable and model is not None and is_name(model) else resolve_model(model)
    )


def default_folder(paths: list[Path]) -> Path:
    """Return `benchmark/` in the bundle of the model, or here for several models."""
    if len(paths) > 1:
        return Path("benchmark")

    from zoo.bundle.bundle import find_bundle

    return (find_bundle(paths[0]) or paths[0].parent) / "benchmark"


def _show(report: Report, files: list[Path]) -> list[Any]:
    """Return the terminal output for a report."""
    from zoo.serve.bench.report.reading import warnings
    from zoo.serve.bench.report.table import (
        COMPARED,
        GPU,
        SHORT,
        comparison,
        lines,
        on_gpu,
        why_no_miou,
        why_not,
    )

    shown: list[Any] = []
    for model, label in report.labels().items():
        rows = [row for row in report.rows if row.model == model]
        shown.append(table(f"{label}, threads: {report.settings.threads}", *lines(rows, SHORT)))
        if gpu_rows := on_gpu(rows):
            shown.append(table(f"{label} on the GPU", *lines(gpu_rows, GPU)))
        shown += [f"not measured: {line}" for line in why_not(rows)]
        shown += [f"no mIoU: {line}" for line in why_no_miou(rows)]
    if compared := comparison(report):
        shown += [table("Models", *compared), f"{COMPARED}."]
    return [*shown, *warnings(report), f"Wrote {', '.join(map(str, files))}"]


def parse_backends(text: str) -> tuple[str, ...]:
    """Return the backends in a comma-separated list, each once.

    Raises:
        typer.BadParameter: a backend is unknown, or the list is empty.
    """
    from zoo.serve.bench.choices import parse_choice

    names = parts_of(text)
    if not names:
        raise typer.BadParameter(
            f"{text!r} is not a list of backends, expected e.g. ort,trt:fp16", param_hint="--backends"
        )
    try:
        return tuple(dict.fromkeys(parse_choice(name).name for name in names))
    except ZooError as error:
        raise typer.BadParameter(str(error), param_hint="--backends") from error


def parse_batches(text: str) -> tuple[int, ...]:
    """Return the batch sizes in a comma-separated list, each once.

    Raises:
        typer.BadParameter: not positive numbers.
    """
    parts = parts_of(text)
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of batch sizes, expected e.g. 1,8", param_hint="--batch"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def parts_of(text: str) -> list[str]:
    """Return the entries of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]
