"""`zoo evaluate`: mIoU of a model on labeled images, or F1 of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.api.evaluate import WHOLE, check_protocols, evaluate_all
from zoo.commands.arguments import (
    DeviceOption,
    ModelArgument,
    OverlapOption,
    TileOption,
    tiling_of,
)
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.commands.reliability import reliability_lines
from zoo.errors import ZooError
from zoo.predictors.limits import OVERLAP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoo.predictors.tiles import Tiling

ALL = "all"


def evaluate(
    model: ModelArgument = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="shapes, voc:DIR, a folder or a data.toml; default: the model's training data.",
        ),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Split to evaluate.")] = "val",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="How images are resized and scored: whole (as in production), slide, original, resize, "
            "center-crop, padded, half, multi-scale, ...; several names, or all, are shown side by side. "
            "Default: whole, or --tile alone.",
        ),
    ] = None,
    tile: TileOption = None,
    overlap: OverlapOption = OVERLAP,
    reliability: Annotated[
        bool,
        typer.Option(
            "--reliability",
            help="Also measure how well scores of pixels tell right from wrong, before and after zoo "
            "calibrate, on images that it was not fitted on.",
        ),
    ] = False,
    corrupt: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:1-5", help="Corrupt the images: noise, blur, dark, contrast or jpeg, e.g. noise:3."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write metrics.json, the confusion matrices and other plots."),
    ] = None,
    overwrite: Overwrite = False,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the mIoU of MODEL on labeled images; for a classifier (mlmt), the F1 of its classes.

    MODEL may also be http://HOST:PORT of a running zoo serve.
    """
    names = with_tiles(protocol, tiling_of(tile, overlap))
    with remarks.status("evaluating") as status:
        results = evaluate_all(
            model,
            names,
            data=data,
            split=split,
            reliability=reliability,
            corrupt=corrupt,
            report=report,
            overwrite=overwrite,
            device=device,
            on_progress=lambda done, total: status.update(f"evaluated {done} of {total} images"),
        )
    shown = _report(results[0]) if len(results) == 1 else [*_side_by_side(results)]
    shown += [line for each in results if "reliability" in each for line in reliability_lines(each)]
    emit(results[0] if len(results) == 1 else results, *shown, as_json=as_json)


def with_tiles(protocols: str | None, tiling: Tiling | None) -> tuple[str, ...]:
    """Return the protocols to measure by: those that are named and tiles, by default the tiles or `whole`.

    Raises:
        typer.BadParameter: a protocol does not exist.
    """
    if tiling is None:
        return parse_protocols(protocols or WHOLE)
    return (*(parse_protocols(protocols) if protocols else ()), str(tiling))


def parse_protocols(text: str) -> tuple[str, ...]:
    """Return the protocols named in `name,name` or `all`.

    Raises:
        typer.BadParameter: a protocol does not exist.
    """
    from zoo.evaluation.protocols import PROTOCOLS

    if text == ALL:
        return tuple(PROTOCOLS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    try:
        check_protocols(names)
    except ZooError as error:
        raise typer.BadParameter(f"{error}, or {ALL}", param_hint="--protocol") from error
    return names


def _report(metrics: dict[str, Any]) -> list[Any]:
    """Return the terminal output for the metrics."""
    from zoo.evaluation.figures import figures_of

    figures = figures_of(metrics)
    show = "{:.4f}".format
    headings = tuple(figures.by_class.values())
    others = figures.summary(metrics, show)[len(headings) :]
    rows = [*figures.rows(metrics, show), figures.means(metrics, show), *others]
    title = (
        f"{' and '.join(headings)} of {metrics['model']} on {metrics['images']} {metrics['split']} images of "
        f"{metrics['data']}, protocol {metrics['protocol']}"
    )
    return [table(title, ("class", *headings), rows), *_origin(metrics)]


def _side_by_side(results: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the terminal output for several protocols."""
    from zoo.evaluation.figures import NEAR, shown
    from zoo.evaluation.protocols import ABOUT, ABOUT_TILES, users

    show: Callable[[float], str] = "{:.4f}".format
    rows = [
        (
            each["protocol"],
            *(shown(each[key], show, each["split"]) for key in NEAR.overall),
            ABOUT.get(each["protocol"], ABOUT_TILES),
            users(each["protocol"]) or "-",
        )
        for each in results
    ]
    first = results[0]
    title = f"{first['model']} on {first['images']} {first['split']} images of {first['data']}"
    columns = ("protocol", *NEAR.overall.values(), "the network sees", "reported by")
    result = table(title, columns, rows)
    for column in result.columns[-2:]:
        column.justify = "left"
    return [result, *_origin(first)]


def _origin(metrics: dict[str, Any]) -> list[str]:
    """Return a line that identifies the evaluated model."""
    origin = f"{metrics['backend']}: {metrics['runtime']}"
    if metrics.get("method") is None:
        return [origin]
    labels = f", labeled images {metrics['partition']}" if metrics["partition"] else ""
    preset = f" ({metrics['preset']})" if metrics["preset"] else ""
    return [f"{metrics['method']}{preset}, network {metrics['network']}{labels}; {origin}"]
