"""`zoo load-test`: latency and throughput of a running server under load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.api_key import key_of_environment
from zoo.commands.arguments import DeviceOption, parse_size
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.machine import choose_device, cores
from zoo.resolve import is_url, resolve_model

if TYPE_CHECKING:
    from zoo.predictors.base import Predictor
    from zoo.serve.load.measurement import Report
    from zoo.serve.load.run import BareModel

FOLDER = Path("benchmark")
QUICK: dict[str, Any] = {
    "seconds": 2.0,
    "requests": 20,
    "search_seconds": 4.0,
    "search_requests": 200,
    "quick": True,
}


def load_test(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="http://host:port of a running server; its API key is taken from ZOO_API_KEY."
        ),
    ],
    clients: Annotated[
        str | None,
        typer.Option(
            metavar="1,8,32",
            help="Closed loop: numbers of clients, each of which waits for a response before it sends again; "
            "default: 1,8,32.",
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="20,40",
            help="Open loop: requests per second that arrive at random times; default: 25, 50, 75, 100 and "
            "125 % of the best throughput of --clients.",
        ),
    ] = None,
    bound_ms: Annotated[
        float | None,
        typer.Option(
            "--bound-ms",
            min=0.1,
            help="Find the highest rate at which no request fails and the 99th percentile of the latency "
            "stays below this bound; default: 100. The search tries up to 16 rates, each up to two minutes.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Minimum duration of each load; default: 10.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Minimum number of requests of each load; default: 100.")
    ] = None,
    route: Annotated[
        Literal["predict", "oip"] | None,
        typer.Option(
            help="predict (default) sends image files; oip sends tensors with the Open Inference Protocol."
        ),
    ] = None,
    served: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model to test; default: the first.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The served model, to measure the server's overhead over the bare backend.",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of images to send; default: generated shapes.")
    ] = None,
    imgsz: Annotated[str | None, typer.Option(metavar="H,W", help="Size of the generated images.")] = None,
    device: DeviceOption = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the bare backend; default: one per core."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rough figures: 2 s and 20 requests per load.")
    ] = False,
    report: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for load.html and load.json."),
    ] = FOLDER,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Load-test a running server: closed loop, open loop, and goodput under a latency bound."""
    if not is_url(url):
        raise typer.BadParameter(
            f"{url} is not a server, expected http://host:port: zoo bench measures models", param_hint="URL"
        )
    if images is not None and imgsz is not None:
        raise typer.BadParameter(
            "got --imgsz and --images, but files are sent at their own size: leave one of them out",
            param_hint="--imgsz",
        )
    size = None if imgsz is None else parse_size(imgsz)
    given = {
        "clients": _numbers(clients, "--clients", "1,8,32", int),
        "rates": _numbers(rates, "--rates", "20,40", float),
        "bound_ms": bound_ms,
        "seconds": seconds,
        "search_seconds": seconds,
        "requests": requests,
        "route": route,
        "threads": threads or cores(),
    }

    from rich.text import Text

    from zoo.outputs import Outputs
    from zoo.serve.load import run
    from zoo.serve.load.inputs import SIZE, drawn, of_folder
    from zoo.serve.load.measurement import Settings
    from zoo.serve.load.page import NAMES, write_report
    from zoo.serve.load.target import Asked, find

    settings = Settings(
        **(QUICK if quick else {}) | {name: value for name, value in given.items() if value is not None}
    )
    outputs = Outputs(report, NAMES, "--report", overwrite=overwrite)
    asked = Asked(url.rstrip("/"), key_of_environment(), served, settings.route, settings.timeout)
    with remarks.status("asking the server") as status:
        pictures = drawn(size or SIZE) if images is None else of_folder(images)
        found = find(asked, pictures)
        bare = None
        if model is not None:
            bare = _bare(model, found.server.backend, choose_device(device), threads)
        result = run.load_test(found, bare, settings, lambda text: status.update(Text(text)))
    with outputs.writing():
        files = write_report(result, report)
    emit(result.model_dump(mode="json"), *_show(result, files), as_json=as_json)


def _numbers(
    text: str | None, option: str, example: str, kind: type[int] | type[float]
) -> tuple[float, ...] | None:
    """Return the positive numbers in a comma-separated list, each once.

    Raises:
        typer.BadParameter: an entry is not a positive number.
    """
    if text is None:
        return None
    try:
        numbers = tuple(dict.fromkeys(map(kind, text.split(","))))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise typer.BadParameter(
            f"{text!r} is not a list of positive numbers, expected e.g. {example}", param_hint=option
        )
    return numbers


def _bare(model: str, backend: str | None, device: str, threads: int | None) -> BareModel:
    """Return the model without a server, on the server's backend."""
    from zoo.predictors.load import load_predictor
    from zoo.serve.load.run import BareModel

    path = resolve_model(model)
    predictor: Predictor = load_predictor(path, backend=backend, device=device, threads=threads)
    return BareModel(path, predictor)


def _show(report: Report, files: list[Path]) -> list[Any]:
    """Return the terminal output for a report."""
    from zoo.serve.load.reading import warnings
    from zoo.serve.load.table import CLOSED, OPEN, SPENT, goodput, lines, overhead

    name = f"{report.server.model} at {report.server.url}"
    shown: list[Any] = [table(f"{name}, closed loop", *lines(report.closed, CLOSED))]
    if spent := [row for row in report.closed if row.parts_ms]:
        shown.append(table("Where the time goes, mean", *lines(spent, SPENT)))
    shown.append(table("Open loop: arrivals at random times", *lines(report.open, OPEN)))
    texts = [goodput(report), *overhead(report), *warnings(report), f"Wrote {', '.join(map(str, files))}"]
    return [*shown, *filter(None, texts)]
