"""`zoo bench`: latency, throughput and mIoU of a model on each backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.api.benchmark import benchmark as measure
from zoo.commands.arguments import DeviceOption, parse_size
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.errors import ZooError
from zoo.predictors.backends import BACKENDS
from zoo.resolve import is_url

if TYPE_CHECKING:
    from zoo.api.benchmark import BenchmarkResult

DEFAULT_BATCH = "1"


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
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Record the fastest of ONNX Runtime and OpenVINO, in fp32 or int8, in the bundle's folder: "
            "zoo serve takes it on this machine.",
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
    from rich.text import Text

    with remarks.status("loading") as status:
        result = measure(
            models,
            backends=None if backends is None else parse_backends(backends),
            batch=parse_batches(batch),
            imgsz=None if imgsz is None else parse_size(imgsz),
            data=data,
            threads=threads,
            device=device,
            images=images,
            match_trtexec=match_trtexec,
            quick=quick,
            choose=choose,
            report=report,
            overwrite=overwrite,
            on_event=lambda text: status.update(Text(text)),
        )
    emit(result.report.model_dump(mode="json"), *_show(result), as_json=as_json)


def _show(result: BenchmarkResult) -> list[Any]:
    """Return the terminal output for a benchmark."""
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

    report = result.report
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
    shown += [f"zoo serve {path} takes {name} on this machine" for path, name in result.chosen.items()]
    return [*shown, *warnings(report), f"Wrote {', '.join(map(str, result.files))}"]


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
