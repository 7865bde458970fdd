"""`zoo evaluate`: the mIoU of a model on labelled images."""

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
    """Measure the mIoU of MODEL on labeled images."""
    path = resolve_model(model)

    from zoo.data.open import open_source
    from zoo.evaluate import evaluate as evaluate_predictor
    from zoo.predictors.load import load_predictor

    source = open_source(data or training_data(path))
    predictor = load_predictor(path, device=choose_device(device))
    with remarks.status("evaluating") as status:
        metrics = evaluate_predictor(
            predictor,
            source,
            split,
            protocol,
            on_progress=lambda done, total: status.update(f"evaluated {done} of {total} images"),
        )
    metrics = {"model": str(path), **metrics}
    emit(metrics, *_report(metrics), as_json=as_json)


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
    rows = [(name, _number(iou)) for name, iou in metrics["iou"].items()]
    rows += [("mean", _number(metrics["miou"])), ("pixel accuracy", _number(metrics["pixel_accuracy"]))]
    title = (
        f"IoU of {metrics['model']} on {metrics['images']} {metrics['split']} images of {metrics['data']}, "
        f"protocol {metrics['protocol']}"
    )
    return [table(title, ("class", "IoU"), rows), f"{metrics['backend']}: {metrics['runtime']}"]


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
