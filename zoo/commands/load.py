"""`zoo bench http://host:port`: how a running server bears load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from zoo.commands.console import emit, remarks, table
from zoo.machine import choose_device
from zoo.resolve import resolve_model

if TYPE_CHECKING:
    from zoo.serve.load.measurement import Report
    from zoo.serve.load.run import BareModel
    from zoo.serve.load.target import Found

FOLDER = Path("benchmark")
QUICK: dict[str, Any] = {
    "seconds": 2.0,
    "requests": 20,
    "search_seconds": 4.0,
    "search_requests": 200,
    "quick": True,
}

ClientsOption = Annotated[
    str | None,
    typer.Option(
        metavar="1,8,32",
        help="Of a server: numbers of clients that each wait for an answer before they send again; "
        "default: 1,8,32.",
    ),
]
RatesOption = Annotated[
    str | None,
    typer.Option(
        metavar="20,40",
        help="Of a server: requests a second that arrive at random times; default: 25, 50, 75, 100 and 125 % "
        "of the best throughput of --clients.",
    ),
]
BoundOption = Annotated[
    float | None,
    typer.Option(
        "--bound-ms",
        min=0.1,
        help="Of a server: find the highest rate at which nothing fails and 99 of 100 requests take at most "
        "this long; default: 100.",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(min=0.1, help="Of a server: at least this long for each load; default: 10."),
]
RequestsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Of a server: at least this many requests for each load; default: 100."),
]
RouteOption = Annotated[
    Literal["predict", "oip"] | None,
    typer.Option(
        help="Of a server: predict (default) sends encoded images, oip tensors by the Open Inference "
        "Protocol."
    ),
]
ServedOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of a server: name of its model that is tested; default: its first."),
]
BareOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Of a server: what it serves, to time without a server in between."
    ),
]


class LoadOptions(NamedTuple):
    """What was given on the command line; None for what was not."""

    clients: str | None
    rates: str | None
    bound_ms: float | None
    seconds: float | None
    requests: int | None
    route: Literal["predict", "oip"] | None
    served: str | None
    model: str | None


class Shared(NamedTuple):
    """Options that are those of a benchmark too."""

    images: str | None
    imgsz: tuple[int, int] | None
    device: Literal["cpu", "cuda"] | None
    threads: int | None
    quick: bool
    report: Path | None
    as_json: bool


def load(url: str, options: LoadOptions, shared: Shared) -> None:
    """Measure how a server bears load and show what was found.

    Raises:
        ZooError: it cannot be reached or does not answer well, or the report cannot be written.
    """
    settings = _settings(options, shared)

    from rich.text import Text

    from zoo.bundle.bundle import check_writable
    from zoo.serve.load.inputs import SIZE, drawn, of_folder
    from zoo.serve.load.measurement import Settings
    from zoo.serve.load.page import write_report
    from zoo.serve.load.run import load_test
    from zoo.serve.load.target import KEY_VARIABLE, Asked, find

    chosen = Settings(**settings)
    folder = shared.report or FOLDER
    check_writable(folder)
    key = os.environ.get(KEY_VARIABLE) or None
    asked = Asked(url.rstrip("/"), key, options.served, chosen.route, chosen.timeout)
    with remarks.status("asking the server") as status:
        pictures = drawn(shared.imgsz or SIZE) if shared.images is None else of_folder(Path(shared.images))
        found = find(asked, pictures)
        bare = None if options.model is None else _bare(options.model, found, shared)
        result = load_test(found, bare, chosen, lambda text: status.update(Text(text)))
    files = write_report(result, folder)
    emit(result.model_dump(mode="json"), *_show(result, files), as_json=shared.as_json)


def _settings(options: LoadOptions, shared: Shared) -> dict[str, Any]:
    """Return the fields of `Settings` that were given."""
    if shared.images is not None and shared.imgsz is not None:
        raise typer.BadParameter(
            "files are sent as they are, got --images too: leave one of them out", param_hint="--imgsz"
        )
    given = {
        "clients": _numbers(options.clients, "--clients", "1,8,32", int),
        "rates": _numbers(options.rates, "--rates", "20,40", float),
        "bound_ms": options.bound_ms,
        "seconds": options.seconds,
        "search_seconds": options.seconds,
        "requests": options.requests,
        "route": options.route,
    }
    effort = QUICK if shared.quick else {}
    threads = shared.threads or os.cpu_count() or 1
    return {
        **effort,
        **{name: value for name, value in given.items() if value is not None},
        "threads": threads,
    }


def _numbers(
    text: str | None, option: str, example: str, kind: type[int] | type[float]
) -> tuple[float, ...] | None:
    """Return the positive numbers of a comma-separated list, each once.

    Raises:
        typer.BadParameter: one is none.
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


def _bare(model: str, found: Found, shared: Shared) -> BareModel:
    """Return the model without a server, on the backend that the server has."""
    from zoo.predictors.load import load_predictor
    from zoo.serve.load.run import BareModel

    path = resolve_model(model)
    predictor = load_predictor(
        path,
        backend=found.server.backend,
        device=choose_device(shared.device),
        threads=shared.threads,
    )
    return BareModel(path, predictor)


def _show(report: Report, files: list[Path]) -> list[Any]:
    """Return what a person sees of a report."""
    from zoo.serve.load.reading import warnings
    from zoo.serve.load.table import CLOSED, OPEN, SPENT, goodput, lines, overhead

    name = f"{report.server.model} at {report.server.url}"
    shown: list[Any] = [table(f"{name}, clients that wait", *lines(report.closed, CLOSED))]
    if spent := [row for row in report.closed if row.parts_ms]:
        shown.append(table("Where the time goes, mean", *lines(spent, SPENT)))
    shown.append(table("Arrivals at random times", *lines(report.open, OPEN)))
    texts = [goodput(report), *overhead(report), *warnings(report), f"Made {', '.join(map(str, files))}"]
    return [*shown, *filter(None, texts)]
