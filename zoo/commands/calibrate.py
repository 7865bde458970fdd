"""`zoo calibrate`: the reliability of a model, fitted on held-out labeled images and stored in its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.commands.arguments import BundleArgument, DeviceOption
from zoo.commands.console import AsJson, emit, remarks, table
from zoo.commands.reliability import advice_lines, scores_table
from zoo.errors import BundleError
from zoo.machine import choose_device
from zoo.resolve import bundle_with_localizer, resolve_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.reliability import Reliability


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
        typer.Option("--half", help="Fit on every second image, and measure the reliability on the others."),
    ] = False,
    score: Annotated[
        Literal["temperature", "softmax", "entropy", "agreement", "localizer"] | None,
        typer.Option(
            help="Score of the output reliability; all scores are fitted. Default: temperature or softmax, "
            "whichever has the lower calibration error (ECE), fitted on half of the images and measured on "
            "the other half.",
        ),
    ] = None,
    keep_localizer: Annotated[
        bool,
        typer.Option(
            "--keep-localizer",
            help="Calibrate a new bundle of the run MODEL, bundle-localizer/, that keeps the error localizer "
            "of eln, and fit its score too.",
        ),
    ] = False,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Fit the reliability of MODEL on labeled images and store it in its bundle.

    The reliability of a pixel is the probability that its predicted class is right.
    """
    bundle = bundle_with_localizer(model) if keep_localizer else resolve_bundle(model)

    from zoo.api.evaluate import training_data
    from zoo.bundle.bundle import load_config, update_config
    from zoo.card.card import refresh_card
    from zoo.data.open import open_source
    from zoo.evaluation.calibration import calibrate as fit
    from zoo.evaluation.reliability import measure_reliability, without_curves
    from zoo.evaluation.scored import halves
    from zoo.predictors.eager import load_eager

    source = open_source(data or training_data(bundle))
    learned = load_config(bundle).data_spec
    if split == "train" and learned is not None and Path(source.spec).resolve() == Path(learned).resolve():
        raise BundleError(
            f"got the train split of {source.spec}, which the model has learned, expected labeled images "
            f"that it has not seen: leave --split out, or name other data with --data"
        )
    fitted_on, others = halves(source, split) if half else (source, None)
    predictor = load_eager(bundle, choose_device(device))
    with remarks.status("calibrating") as status:

        def on_progress(done: int, total: int) -> None:
            status.update(f"predicted {done} of {total} images")

        found = fit(predictor, fitted_on, split, score, on_progress)
        if others is not None and others.kept:
            measured = measure_reliability(predictor, others, split, fitted=found, on_progress=on_progress)
            facts = {"data": source.spec, "split": split, **without_curves(measured)}
            found = found.model_copy(update={"measured": facts})
    update_config(bundle, reliability=found)
    refresh_card(bundle)
    emit({"model": str(bundle), **found.model_dump(mode="json")}, *_report(bundle, found), as_json=as_json)


def _report(bundle: Path, found: Reliability) -> list[Any]:
    """Return the terminal output for a calibration."""
    rows = [
        (name, f"{each.temperature:.3f}", str(len(each.knots)) if each.knots else "-")
        for name, each in found.calibrations.items()
    ]
    fitted = found.fitted
    title = f"Calibration of {bundle}, output reliability: {found.score}"
    lines: list[Any] = [
        table(title, ("score", "temperature", "knots"), rows),
        f"fitted on {fitted.pixels:,} pixels of {len(fitted.images)} {fitted.split} images of {fitted.data}",
    ]
    if found.cross_fitted:
        errors = ", ".join(f"{name} {error:.4f}" for name, error in found.cross_fitted.items())
        lines.append(f"ECE when fitted on one half of them and measured on the other: {errors}")
    measured = found.measured
    if measured:
        others = f"{measured['images']} other {measured['split']} images of {measured['data']}"
        title = f"Reliability on the {others}"
        return [*lines, scores_table(title, measured), *advice_lines(measured, str(bundle))]
    return [*lines, f"measure it on other images: zoo evaluate {bundle} --data SPEC --reliability"]
