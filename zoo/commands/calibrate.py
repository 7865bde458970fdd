"""`zoo calibrate`: the reliability of a model, fitted on held-out labeled images and stored in its bundle."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from zoo.commands.arguments import BundleArgument, DeviceOption
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.machine import choose_device
from zoo.resolve import resolve_bundle


def calibrate(
    model: BundleArgument = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Labeled images; default: the model's training data."),
    ] = None,
    split: Annotated[
        Literal["train", "val"], typer.Option(help="Split to fit on; never the images of the training.")
    ] = "val",
    half: Annotated[
        bool,
        typer.Option("--half", help="Fit on every second image; zoo evaluate --held-out scores the others."),
    ] = False,
    score: Annotated[
        Literal["temperature", "softmax", "entropy"],
        typer.Option(help="Score of the output reliability; all scores are fitted."),
    ] = "temperature",
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Fit the reliability of MODEL on labeled images and store it in its bundle.

    The reliability of a pixel is the probability that its predicted class is right.
    """
    bundle = resolve_bundle(model)

    from zoo.bundle.bundle import update_config
    from zoo.card.card import refresh_card
    from zoo.commands.evaluate import training_data
    from zoo.data.open import open_source
    from zoo.evaluation import calibration
    from zoo.predictors.eager import load_eager

    source = open_source(data or training_data(bundle))
    if half:
        source = calibration.half_of(source, split)
    predictor = load_eager(bundle, choose_device(device))
    with remarks.status("calibrating") as status:

        def on_progress(done: int, total: int) -> None:
            status.update(f"predicted {done} of {total} images")

        found = calibration.calibrate(predictor, source, split, score, on_progress)
    update_config(bundle, reliability=found)
    refresh_card(bundle)
    result: dict[str, Any] = {"model": str(bundle), **found.model_dump(mode="json")}
    rows = [
        (name, f"{each.temperature:.3f}", str(len(each.knots)) if each.knots else "-")
        for name, each in found.calibrations.items()
    ]
    fitted = found.fitted
    title = f"Calibration of {bundle}, output reliability: {found.score}"
    emit(
        result,
        table(title, ("score", "temperature", "knots"), rows),
        f"fitted on {fitted.pixels:,} pixels of {len(fitted.images)} {split} images of {fitted.data}",
        as_json=as_json,
    )
