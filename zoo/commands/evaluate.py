"""`zoo evaluate`: mIoU of a model on labeled images, or F1 of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.commands.arguments import (
    OVERLAP,
    DeviceOption,
    ModelArgument,
    OverlapOption,
    TileOption,
    tiling_of,
)
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.resolve import resolve_predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig
    from zoo.data.source import Source
    from zoo.evaluation.evaluate import Progress, Scores
    from zoo.predictors.base import Predictor
    from zoo.predictors.tiles import Tiling


ALL = "all"
WHOLE = "whole"
REPORT_NAME = "metrics.json"


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
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write metrics.json and the confusion matrices."),
    ] = None,
    overwrite: Overwrite = False,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the mIoU of MODEL on labeled images; for a classifier (mlmt), the F1 of its classes.

    MODEL may also be http://HOST:PORT of a running zoo serve.
    """
    names = with_tiles(protocol, tiling_of(tile, overlap))
    path = resolve_predictor(model)

    from zoo.data.open import open_source
    from zoo.evaluation.evaluate import evaluate_tags
    from zoo.outputs import Outputs
    from zoo.predictors.load import load_predictor
    from zoo.predictors.tags import load_tag_predictor

    tells_tags = isinstance(path, Path) and is_classifier(path, names)
    files = (REPORT_NAME, *(() if tells_tags else map(confusion_name, names)))
    outputs = None if report is None else Outputs(report, files, "--report", overwrite=overwrite)
    source = open_source(data or training_data(path))
    where = choose_device(device)
    facts = {"model": str(path), **model_facts(path)}
    with remarks.status("evaluating") as status:

        def on_progress(done: int, total: int) -> None:
            status.update(f"evaluated {done} of {total} images")

        scores: list[Scores] = []
        if isinstance(path, Path) and tells_tags:
            results = [facts | evaluate_tags(load_tag_predictor(path, where), source, split, on_progress)]
        else:
            predictor = load_predictor(path, device=where)
            scores = _scores(predictor, source, split, names, on_progress)
            results = [facts | each.as_dict(predictor.classes) for each in scores]
    if outputs is not None:
        with outputs.writing():
            _write(outputs.folder, results, scores, source.classes.names)
    shown = _report(results[0]) if len(results) == 1 else [*_side_by_side(results)]
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
    for name in names:
        if name not in PROTOCOLS:
            raise typer.BadParameter(
                f"{name!r} is not a protocol, expected some of {', '.join(PROTOCOLS)}, or {ALL}",
                param_hint="--protocol",
            )
    return names


def is_classifier(path: Path, protocols: Sequence[str]) -> bool:
    """Return whether a model is a classifier, which is evaluated on whole images.

    Raises:
        BundleError: another protocol is requested for a classifier.
    """
    from zoo.bundle.bundle import load_config

    found = path.is_dir() and load_config(path).deployable.kind == "classifier"
    if found and tuple(protocols) != (WHOLE,):
        raise BundleError(
            f"--protocol {','.join(protocols)} is for masks, but {path} is a classifier of whole images: "
            f"leave it out"
        )
    return found


def training_data(path: Path | str) -> str:
    """Return the spec of the data that a model was trained on.

    Raises:
        BundleError: it is unknown.
    """
    config = _config(path)
    spec = None if config is None else config.data_spec
    if spec is None:
        raise BundleError(f"{path} does not record its training data: select some with --data SPEC")
    return spec


def model_facts(path: Path | str) -> dict[str, Any]:
    """Return the facts to report with a figure: method, preset, network and list of labeled images.

    Args:
        path: a bundle or an artifact in one; the facts are empty for anything else.
    """
    config = _config(path)
    if config is None:
        return {}
    return {
        "method": config.method,
        "preset": config.recipe.get("preset"),
        "network": config.weights,
        "partition": config.provenance.get("partition", {}).get("digest"),
    }


def _config(path: Path | str) -> BundleConfig | None:
    from zoo.bundle.bundle import find_bundle, load_config

    bundle = find_bundle(path) if isinstance(path, Path) else None
    return None if bundle is None else load_config(bundle)


def _scores(
    predictor: Predictor,
    source: Source,
    split: Literal["train", "val"],
    names: Sequence[str],
    on_progress: Progress,
) -> list[Scores]:
    """Return the scores under each protocol."""
    from zoo.evaluation.evaluate import score

    found = []
    for name in names:
        if len(names) > 1:
            remarks.print(f"protocol {name}")
        found.append(score(predictor, source, split, name, on_progress, with_boundary=True))
    return found


def confusion_name(protocol: str) -> str:
    """Return the file name of a confusion matrix's plot."""
    return f"confusion.{protocol}.png"


def _write(
    folder: Path, results: Sequence[dict[str, Any]], scores: Sequence[Scores], names: tuple[str, ...]
) -> None:
    """Write the figures, and the confusion matrix of each of `scores` (empty for a classifier)."""
    from zoo.bundle.bundle import write_json
    from zoo.pages.confusion import write_confusion

    for result, each in zip(results, scores, strict=False):
        path = folder / confusion_name(result["protocol"])
        title = f"{result['model']} on {result['data']} {result['split']}, protocol {result['protocol']}"
        write_confusion(each.confusion.counts.cpu().numpy(), names, title, path)
        remarks.print(f"wrote {path}")
    write_json(folder / REPORT_NAME, list(results))
    remarks.print(f"wrote {folder / REPORT_NAME}")


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
