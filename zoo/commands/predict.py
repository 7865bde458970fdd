"""`zoo predict`: the masks of images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.console import AsJson, emit, remarks, table
from zoo.commands.device import DeviceOption, choose_device
from zoo.commands.inputs import Input, find_inputs, is_image_name, is_source
from zoo.commands.model import ARTIFACT_SUFFIXES, resolve_model
from zoo.errors import BundleError, InvalidImageError, ZooError

if TYPE_CHECKING:
    from PIL import Image

    from zoo.classes import Classes, Mask
    from zoo.predictors.base import Predictor

MASK, OVERLAY, CONFIDENCE = ".png", ".overlay.png", ".confidence.png"


def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT",
            help="A run, bundle, .onnx or .engine file (default: the newest run under runs/), then images, "
            "folders, patterns, or shapes for images of the built-in data.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the masks go.")] = Path("predictions"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each mask over its image.")] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence", help="Also write the probability of each pixel's class, grey from 0 to 255."
        ),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Images of built-in data or a data.toml.")] = 8,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the masks of images.

    A mask is an indexed PNG: its pixel values are class numbers, its colours those of the classes.
    """
    if out.exists() and not out.is_dir():
        raise ZooError(f"{out} is a file, expected a folder for the masks: choose another with --out")
    model, texts = split_arguments(arguments)
    inputs = find_inputs(texts, limit, out)
    suffixes = (MASK, *[OVERLAY] * overlay, *[CONFIDENCE] * confidence)
    outputs = name_outputs(inputs, out, suffixes)

    from zoo.predictors.load import load_predictor

    predictor = load_predictor(model, device=choose_device(device))
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with remarks.status("predicting") as status:
        for number, (input_, output) in enumerate(zip(inputs, outputs, strict=True), start=1):
            try:
                done.append(predict_one(predictor, input_, output, suffixes))
            except InvalidImageError as error:
                remarks.print(f"error: {error}")
                failed.append({"input": input_.name, "error": str(error)})
            status.update(f"predicted {number} of {len(inputs)} images")
    result = {
        "model": str(model),
        "backend": predictor.backend,
        "runtime": predictor.description,
        "out": str(out),
        "images": done,
        "errors": failed,
    }
    emit(result, *_report(result), as_json=as_json)
    if failed:
        raise typer.Exit(1)


def split_arguments(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the model and the INPUTs; a first argument that is no image may be the model.

    Raises:
        typer.BadParameter: no INPUT.
        ZooError: no such model.
    """
    first, *rest = arguments
    if not _is_model(first):
        return resolve_model(None), list(arguments)
    model = resolve_model(first)
    if not rest:
        raise typer.BadParameter(f"got the model {first} but no INPUT, expected images, a folder or shapes")
    return model, rest


def _is_model(text: str) -> bool:
    """Return whether the first argument is a model, or else a mistake that reads like one."""
    path = Path(text)
    if path.is_dir():
        return (path / "recipe.json").is_file() or (path / "config.json").is_file()
    if path.exists() or is_source(text) or any(sign in text for sign in "*?["):
        return path.suffix in ARTIFACT_SUFFIXES
    return not is_image_name(path)


def name_outputs(inputs: Sequence[Input], out: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the path of each input's results without suffix, so that none is written over another.

    They are named by stem, below the folder that was given; where two would meet, all are named by their path
    from the folder above all inputs, and if that is not enough with their suffix.

    Raises:
        ZooError: a result would replace an input.
    """
    for level in range(3):
        names = [out / input_.outputs[level] for input_ in inputs]
        targets = [f"{name}{suffix}".casefold() for name in names for suffix in suffixes]
        if len(set(targets)) == len(targets):
            break
    if level:
        remarks.print(
            f"some images have the same name: results are named by more of their path, as {names[0]}"
        )
    sources = {Path(input_.name).resolve() for input_ in inputs}
    for name in names:
        for suffix in suffixes:
            target = Path(f"{name}{suffix}")
            if target.resolve() in sources:
                raise ZooError(
                    f"the result {target} would replace an input: choose another folder with --out"
                )
    return names


def predict_one(predictor: Predictor, input_: Input, output: Path, suffixes: Sequence[str]) -> dict[str, Any]:
    """Write the mask of one image and what else is wanted, and return what there is to tell.

    Args:
        predictor: of the mask.
        input_: the image.
        output: path of the results without suffix.
        suffixes: of the results: `MASK`, `OVERLAY`, `CONFIDENCE`.

    Raises:
        InvalidImageError: the image cannot be read.
        BundleError: the model gives no confidence.
    """
    from PIL import Image

    from zoo.overlay import areas, picture

    image = input_.read()
    start = time.perf_counter()
    mask, confidence = (
        predictor.predict_with_confidence(image)
        if CONFIDENCE in suffixes
        else (predictor.predict(image), None)
    )
    milliseconds = (time.perf_counter() - start) * 1000
    classes = predictor.classes
    paths = {suffix: Path(f"{output}{suffix}") for suffix in suffixes}
    if CONFIDENCE in paths:
        if confidence is None:
            raise BundleError(
                f"--confidence needs probabilities, but this {predictor.backend} artifact gives masks only: "
                f"predict with the bundle, or export again with --output mask+confidence"
            )
        write_png(paths[CONFIDENCE], Image.fromarray(confidence))
    write_mask(paths[MASK], mask, classes)
    if OVERLAY in paths:
        write_png(paths[OVERLAY], Image.fromarray(picture(image, mask, classes)))
    return {
        "input": input_.name,
        "size": list(mask.shape),
        "areas": {classes.names[label]: share for label, share in areas(mask).items()},
        "ms": milliseconds,
        "mask": str(paths[MASK]),
        "overlay": str(paths[OVERLAY]) if OVERLAY in paths else None,
        "confidence": str(paths[CONFIDENCE]) if CONFIDENCE in paths else None,
    }


def write_mask(path: Path, mask: Mask, classes: Classes) -> None:
    """Write a mask as PNG whose pixel values are the labels: with a palette, or 16 bits above 255 classes.

    Args:
        path: its folder is made if it is missing.
        mask: (H, W).
        classes: whose colours become the palette.
    """
    import numpy as np
    from PIL import Image

    if mask.dtype != np.uint8:
        write_png(path, Image.fromarray(mask.astype(np.uint16)))
        return
    image = Image.fromarray(mask)
    image.putpalette(classes.colorize(np.arange(256, dtype=np.uint8)[None]).tobytes())
    write_png(path, image)


def write_png(path: Path, image: Image.Image) -> None:
    """Write a PNG at once or not at all, in a folder that is made if it is missing."""
    from zoo.bundle import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def _report(result: dict[str, Any]) -> list[Any]:
    """Return what a person sees of the predictions."""
    rows = [
        (image["input"], "x".join(map(str, image["size"])), f"{image['ms']:.0f}", _areas(image["areas"]))
        for image in result["images"]
    ]
    masks = table(f"Masks in {result['out']}", ("image", "size", "ms", "classes"), rows)
    masks.columns[-1].justify = "left"
    shown: list[Any] = [masks]
    if result["errors"]:
        shown.append(f"not predicted: {', '.join(error['input'] for error in result['errors'])}")
    return [*shown, f"{result['model']}, {result['backend']}: {result['runtime']}"]


def _areas(areas: dict[str, float]) -> str:
    from zoo.overlay import percent

    return ", ".join(f"{name} {percent(share)}" for name, share in areas.items())
