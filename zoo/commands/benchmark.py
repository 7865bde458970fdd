"""`zoo bench`: how fast each backend runs a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.arguments import DeviceOption, parse_size
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.commands.load import (
    BareOption,
    BoundOption,
    ClientsOption,
    LoadOptions,
    RatesOption,
    RequestsOption,
    RouteOption,
    SecondsOption,
    ServedOption,
    Shared,
    load,
)
from zoo.commands.parsing import parse_backends, parse_batches, parse_images
from zoo.commands.suite import (
    AgainOption,
    LimitOption,
    ListOption,
    OutOption,
    PartsOption,
    SuiteOption,
    SuiteOptions,
    measure_suite,
)
from zoo.machine import choose_device
from zoo.resolve import is_name, is_url, resolve_bundle, resolve_model

if TYPE_CHECKING:
    from zoo.serve.bench.measurement import Report

DEFAULT_BATCH = "1"
QUICK: dict[str, Any] = {"seconds": 0.5, "min_runs": 20, "images": 16, "quick": True}


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Runs, bundles, .onnx or .engine files, the first of which the others are compared with; "
            "default: the newest run under runs/. Or http://host:port, a running server, to put load on; "
            "its API key is taken from ZOO_API_KEY.",
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            metavar="ort,trt:fp16",
            help="Some of eager, eager-amp, compile, compile-amp, ort, openvino, trt, the last three also as "
            "ort:int8 for one precision; default: all whose file is there. eager and eager-amp are measured "
            "in any case.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="1,8", help="Batch sizes.")] = DEFAULT_BATCH,
    imgsz: Annotated[
        str | None, typer.Option(metavar="H,W", help="Size of the images; default: the training crop.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Where images come from; default: what the model was trained on."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of every backend; default: one for each core.")
    ] = None,
    device: DeviceOption = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="N|DIR",
            help="Labeled val images for the mIoU; default: 64, 0 leaves it out. Of a server: a folder of "
            "images to send; default: drawn shapes.",
        ),
    ] = None,
    match_trtexec: Annotated[
        bool,
        typer.Option(
            "--match-trtexec",
            help="Leave images and masks on the GPU and enqueue a query ahead, as trtexec --noDataTransfers "
            "does, so that GPU compute, enqueue and throughput can be compared with its output.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A first look: 0.5 s, 20 runs and 16 images, not 3 s, 100 and 64; no compile. Of a server: "
            "2 s and 20 requests. Of the suite: smallest sizes, also on a CPU.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of benchmark.html, .json, .md, .png; default: benchmark/ in the model's. Of a "
            "server: of load.html and .json; default: benchmark/ here.",
        ),
    ] = None,
    clients: ClientsOption = None,
    rates: RatesOption = None,
    bound_ms: BoundOption = None,
    seconds: SecondsOption = None,
    requests: RequestsOption = None,
    route: RouteOption = None,
    served: ServedOption = None,
    model: BareOption = None,
    suite: SuiteOption = False,
    out: OutOption = None,
    parts: PartsOption = None,
    limit: LimitOption = None,
    again: AgainOption = False,
    list_parts: ListOption = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast each backend runs MODEL, and how well.

    The backends take turns on the same images; the mIoU is that of the very file that is timed. Of a server:
    its latencies under the load of clients that wait and of requests that arrive at random times. With
    --suite: all that can be measured of this machine, training too.
    """
    size = None if imgsz is None else parse_size(imgsz)
    options = LoadOptions(clients, rates, bound_ms, seconds, requests, route, served, model)
    of_suite = SuiteOptions(out, parts, limit, again or None, list_parts or None)
    if suite:
        others = {
            "MODEL": models or None,
            "--backends": backends,
            "--batch": None if batch == DEFAULT_BATCH else batch,
            "--imgsz": size,
            "--threads": threads,
            "--images": images,
            "--match-trtexec": match_trtexec or None,
            "--report": report,
        }
        _refuse("the suite", others | _named(options))
        measure_suite(of_suite, data, device, quick=quick, as_json=as_json)
        return
    _refuse("a benchmark without --suite", _named(of_suite))
    if url := _server(models or []):
        _refuse(
            "a server",
            {
                "--backends": backends,
                "--batch": None if batch == DEFAULT_BATCH else batch,
                "--data": data,
                "--match-trtexec": match_trtexec or None,
            },
        )
        load(url, options, Shared(images, size, device, threads, quick, report, as_json))
        return
    _refuse("a model", _named(options))
    paths = [_resolve(model) for model in models or (None,)]

    from rich.text import Text

    from zoo.bundle.bundle import check_writable
    from zoo.card.card import refresh_card
    from zoo.serve.bench.benchmark import benchmark as measure
    from zoo.serve.bench.measurement import Settings
    from zoo.serve.bench.report.page import write_report

    effort = QUICK if quick else {}
    effort = effort if images is None else effort | {"images": parse_images(images)}
    settings = Settings(
        backends=None if backends is None else parse_backends(backends),
        batches=parse_batches(batch),
        imgsz=size,
        data=data,
        device=choose_device(device),
        threads=threads or os.cpu_count() or 1,
        match_trtexec=match_trtexec,
        **effort,
    )
    check_writable(folder := report or default_folder(paths))
    with remarks.status("loading") as status:
        result = measure(paths, settings, lambda text: status.update(Text(text)))
    files = write_report(result, folder)
    if (folder.parent / "config.json").is_file():  # the card tells the figures of its bundle
        refresh_card(folder.parent)
    emit(result.model_dump(mode="json"), *_show(result, files), as_json=as_json)


def _resolve(model: str | None) -> Path:
    """Return the path of a model; of a pulled one, of a copy that a report may be written to."""
    return resolve_bundle(model) if model is not None and is_name(model) else resolve_model(model)


def default_folder(paths: list[Path]) -> Path:
    """Return `benchmark/` in the bundle of the model, or here for several models."""
    if len(paths) > 1:
        return Path("benchmark")

    from zoo.bundle.bundle import find_bundle

    return (find_bundle(paths[0]) or paths[0].parent) / "benchmark"


def _server(models: list[str]) -> str | None:
    """Return the server that MODEL is; None if it is a model.

    Raises:
        typer.BadParameter: a server and something else.
    """
    urls = [text for text in models if is_url(text)]
    if urls and len(models) > 1:
        raise typer.BadParameter(
            f"{urls[0]} is a server, which is tested alone, got {len(models)} arguments: name what it serves "
            f"with --model",
            param_hint="MODEL",
        )
    return urls[0] if urls else None


def _refuse(what: str, options: dict[str, object]) -> None:
    """Raise if an option is given that says nothing of what is measured."""
    if given := [name for name, value in options.items() if value is not None]:
        raise typer.BadParameter(f"{what} takes no {given[0]}: leave it out", param_hint=given[0])


def _named(options: LoadOptions | SuiteOptions) -> dict[str, object]:
    """Return options by the name that users know."""
    return {f"--{name.replace('_', '-')}": value for name, value in options._asdict().items()}


def _show(report: Report, files: list[Path]) -> list[Any]:
    """Return what a person sees of a report."""
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
    return [*shown, *warnings(report), f"Made {', '.join(map(str, files))}"]
