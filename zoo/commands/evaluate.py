"""`zoo evaluate`: the mIoU of a model on labelled images, or the F1 of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.commands.console import AsJson, emit, remarks, table
from zoo.commands.device import DeviceOption, choose_device
from zoo.commands.model import ModelArgument, resolve_model
from zoo.errors import BundleError


def evaluate(
    model: ModelArgument = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="shapes, a folder or a data.toml; default: what the model was trained on."
        ),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which images.")] = "val",
    protocol: Annotated[
        Literal["whole", "slide"],
        typer.Option(help="Images scaled as in production, or windows of the training crop at full size."),
    ] = "whole",
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the mIoU of MODEL on labeled images; of a classifier (mlmt), the F1 of the classes it tells."""
    path = resolve_model(model)

    from zoo.data.open import open_source
    from zoo.evaluate import evaluate as evaluate_predictor
    from zoo.evaluate import evaluate_tags
    from zoo.predictors.load import load_predictor
    from zoo.predictors.tags import load_tag_predictor

    source = open_source(data or training_data(path))
    where = choose_device(device)
    with remarks.status("evaluating") as status:

        def on_progress(done: int, total: int) -> None:
            status.update(f"evaluated {done} of {total} images")

        if is_classifier(path, protocol):
            metrics = evaluate_tags(load_tag_predictor(path, where), source, split, on_progress)
        else:
            predictor = load_predictor(path, device=where)
            metrics = evaluate_predictor(predictor, source, split, protocol, on_progress)
    metrics = {"model": str(path), **metrics}
    emit(metrics, *_report(metrics), as_json=as_json)


def is_classifier(path: Path, protocol: str) -> bool:
    """Return whether a model is a classifier, which is evaluated on whole images.

    Raises:
        BundleError: one with another protocol.
    """
    from zoo.bundle import load_config

    found = path.is_dir() and load_config(path).deployable.kind == "classifier"
    if found and protocol != "whole":
        raise BundleError(
            f"--protocol {protocol} puts masks together, but {path} is a classifier, which tells classes of "
            f"whole images: leave it out"
        )
    return found


def training_data(path: Path) -> str:
    """Return the spec of the data that a model was trained on.

    Raises:
        BundleError: it is not known.
    """
    from zoo.bundle import find_bundle, load_config

    bundle = find_bundle(path)
    spec = None if bundle is None else load_config(bundle).data_spec
    if spec is None:
        raise BundleError(f"{path} does not say what data it was trained on: name some with --data SPEC")
    return spec


def _report(metrics: dict[str, Any]) -> list[Any]:
    """Return what a person sees of the metrics."""
    from zoo.figures import figures_of

    figures = figures_of(metrics)
    show = "{:.4f}".format
    headings = tuple(figures.by_class.values())
    others = figures.summary(metrics, show)[len(headings) :]
    rows = [*figures.rows(metrics, show), figures.means(metrics, show), *others]
    title = (
        f"{' and '.join(headings)} of {metrics['model']} on {metrics['images']} {metrics['split']} images of "
        f"{metrics['data']}, protocol {metrics['protocol']}"
    )
    return [table(title, ("class", *headings), rows), f"{metrics['backend']}: {metrics['runtime']}"]
