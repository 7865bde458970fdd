"""`zoo evaluate`: mIoU of a model on labeled images, or F1 of a classifier."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from zoo.commands.arguments import DeviceOption, ModelArgument
from zoo.commands.console import AsJson, Overwrite, emit, remarks, table
from zoo.commands.reliability import (
    images_for_reliability,
    plot_name,
    reliability_lines,
    reliability_of,
    with_reliability,
)
from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.resolve import resolve_predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoo.bundle.bundle import BundleConfig
    from zoo.data.source import Source
    from zoo.evaluation.evaluate import Progress, Scores
    from zoo.predictors.base import Predictor


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
        str,
        typer.Option(
            metavar="NAME,...",
            help="How images are resized and scored: whole (as in production), slide, original, resize, "
            "center-crop, padded, half, multi-scale, ...; several names, or all, are shown side by side.",
        ),
    ] = WHOLE,
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
    names = parse_protocols(protocol)
    path = resolve_predictor(model)

    from zoo.outputs import Outputs

    tells_tags = isinstance(path, Path) and is_classifier(path, names)
    plots = [] if tells_tags else [confusion_name, *[plot_name] * reliability]
    files = (REPORT_NAME, *(plot(name) for plot in plots for name in names))
    outputs = None if report is None else Outputs(report, files, "--report", overwrite=overwrite)
    spec = data or training_data(path)
    sources = _sources(_config(path), spec, split, names if reliability else (), corrupt)
    where = choose_device(device)
    if isinstance(path, Path) and tells_tags:
        scores: list[Scores] = []
        results = [_tags(path, sources.scored, split, where)]
    else:
        scores, results = _masks(path, sources, split, names, where)
    if outputs is not None:
        with outputs.writing():
            _write(outputs.folder, results, scores, sources.scored.classes.names)
    shown = _report(results[0]) if len(results) == 1 else [*_side_by_side(results)]
    shown += [line for each in results if "reliability" in each for line in reliability_lines(each)]
    emit(results[0] if len(results) == 1 else results, *shown, as_json=as_json)


class Sources(NamedTuple):
    """Images to evaluate on."""

    scored: Source
    held_out: Source | None
    """Images for the reliability, without those that it was fitted on; None if it is not requested."""


def _sources(
    config: BundleConfig | None,
    spec: str,
    split: Literal["train", "val"],
    protocols: Sequence[str],
    corrupt: str | None,
) -> Sources:
    """Return the images to evaluate on; `protocols` are those of the reliability, empty if not requested."""
    from zoo.data.open import open_source
    from zoo.evaluation.corruptions import Corrupted

    source = open_source(spec)
    held_out = images_for_reliability(config, source, split, protocols) if protocols else None
    if corrupt is None:
        return Sources(source, held_out)
    return Sources(Corrupted(source, corrupt), held_out and Corrupted(held_out, corrupt))


def _tags(path: Path, source: Source, split: Literal["train", "val"], device: str) -> dict[str, Any]:
    """Return the result of a classifier."""
    from zoo.evaluation.evaluate import evaluate_tags
    from zoo.predictors.tags import load_tag_predictor

    with _progress() as on_progress:
        metrics = evaluate_tags(load_tag_predictor(path, device), source, split, on_progress)
    return {"model": str(path), **model_facts(path), **metrics}


def _masks(
    path: Path | str, sources: Sources, split: Literal["train", "val"], names: Sequence[str], device: str
) -> tuple[list[Scores], list[dict[str, Any]]]:
    """Return the scores under each protocol, and the results with all metrics."""
    from zoo.predictors.load import load_predictor

    predictor = load_predictor(path, device=device)
    if sources.held_out is not None:
        from zoo.evaluation.scored import check_logits

        check_logits(predictor)
    facts = {"model": str(path), **model_facts(path)}
    with _progress() as on_progress:
        scores = _scores(predictor, sources.scored, split, names, on_progress)
        results = [facts | each.as_dict(predictor.classes) for each in scores]
        if sources.held_out is not None:
            fitted = reliability_of(_config(path))
            results = [
                with_reliability(each, predictor, sources.held_out, fitted, on_progress) for each in results
            ]
    return scores, results


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a status line, which the yielded function updates."""
    with remarks.status("evaluating") as status:

        def on_progress(done: int, total: int) -> None:
            status.update(f"evaluated {done} of {total} images")

        yield on_progress


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
    from zoo.pages.reliability import write_reliability

    for result, each in zip(results, scores, strict=False):
        path = folder / confusion_name(result["protocol"])
        title = f"{result['model']} on {result['data']} {result['split']}, protocol {result['protocol']}"
        write_confusion(each.confusion.counts.cpu().numpy(), names, title, path)
        remarks.print(f"wrote {path}")
        if "reliability" in result:
            path = folder / plot_name(result["protocol"])
            write_reliability(result["reliability"]["scores"], path)
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
    from zoo.evaluation.protocols import ABOUT, users

    show: Callable[[float], str] = "{:.4f}".format
    rows = [
        (
            each["protocol"],
            *(shown(each[key], show, each["split"]) for key in NEAR.overall),
            ABOUT[each["protocol"]],
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
