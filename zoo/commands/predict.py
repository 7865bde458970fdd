"""`zoo predict`: the masks of images and videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.arguments import DeviceOption, OverlapOption, TileOption, tiling_of
from zoo.commands.console import AsJson, emit, table
from zoo.predict.folder import DEFAULT_LIMIT, FolderOptions, predict_to
from zoo.predict.inputs import is_image_name, is_source
from zoo.predict.journal import NAME
from zoo.predictors.limits import OVERLAP
from zoo.predictors.outputs import CONFIDENCE, written_outputs
from zoo.resolve import artifact_suffixes, is_url, resolve_model, resolve_predictor

if TYPE_CHECKING:
    from zoo.predict.bulk import Bulk
    from zoo.predictors.tiles import Tiling

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

SHOWN = 50
"""Images in the table; the journal lists all."""


def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT",
            help="A run, bundle, .onnx or .engine file or http://HOST:PORT of zoo serve (default: the newest "
            "run under runs/), then images, videos, folders of images, patterns, addresses of streams, or "
            "shapes for built-in images.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the masks.")] = Path("predictions"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each mask over its image.")] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write the probability of each pixel's class, as gray levels from 0 to 255.",
        ),
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Also write these outputs, joined by +; --confidence is --output confidence."
        ),
    ] = "",
    unknown_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="P",
            help="Write class 255 where the reliability is below P (0 to 1); needs zoo calibrate.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Number of images to take from built-in data or a data.toml.")
    ] = DEFAULT_LIMIT,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images, or tiles, per batch; default: 8, fewer if they are large."),
    ] = None,
    tile: TileOption = None,
    overlap: OverlapOption = OVERLAP,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Predict all images again, and replace files of the same names that zoo predict did not "
            "write.",
        ),
    ] = False,
    device: DeviceOption = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Run on this machine's Ray cluster, or start a local one with one actor per core."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predict the masks of images and videos.

    A mask is an indexed PNG: its pixel values are class ids, its palette the colors of the classes. That of a
    video is a lossless gray video, NAME.mask.mkv, with the times of the frames.
    DIR/predictions.jsonl lists the outputs: an interrupted command resumes from it, and files that are not
    listed, or that were edited since, are not replaced.
    """
    tiling = _tiling(tile, overlap, ray=ray)
    if unknown_below is not None and ray:
        raise typer.BadParameter("got --ray too, expected one of both", param_hint="--unknown-below")
    model, texts = split_arguments(arguments)
    options = FolderOptions(
        overlay,
        tuple(_wanted(output, confidence=confidence)),
        limit,
        batch,
        overwrite,
        device,
        listed=None if as_json else SHOWN,
        tiling=tiling,
        unknown_below=unknown_below,
    )
    try:
        found = predict_to(model, texts, out, options, *([_on_ray] if ray else []))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    result = asdict(found)
    emit(result, *_report(result), as_json=as_json)
    if found.errors:
        raise typer.Exit(1)


def _on_ray(model: Path | str, device: str, bulk: Bulk) -> Bulk:
    """Return a prediction on a Ray cluster."""
    from zoo.predict.bulk_ray import BulkOnRay

    return BulkOnRay(model, device, bulk)


def _wanted(text: str, *, confidence: bool) -> list[str]:
    """Return the names of the requested outputs besides the mask.

    Raises:
        typer.BadParameter: an output is unknown, or cannot be written.
    """
    written = written_outputs()
    names = [*filter(None, text.split("+")), *[CONFIDENCE] * confidence]
    for name in names:
        if name not in written:
            raise typer.BadParameter(
                f"got {name!r}, expected some of {', '.join(written)}, joined by +", param_hint="--output"
            )
    return names


def _tiling(tile: int | None, overlap: float, *, ray: bool) -> Tiling | None:
    """Return the tiles that options ask for.

    Raises:
        typer.BadParameter: an overlap without tiles, or tiles on Ray.
    """
    tiling = tiling_of(tile, overlap)
    if tiling is not None and ray:
        raise typer.BadParameter(
            "got --ray too, expected one of both: actors of Ray predict whole images", param_hint="--tile"
        )
    return tiling


def split_arguments(arguments: Sequence[str]) -> tuple[Path | str, list[str]]:
    """Return the model and the INPUTs; the first argument may be the model if it is not an image.

    Raises:
        typer.BadParameter: no INPUT.
        ZooError: no such model.
    """
    first, *rest = arguments
    if not _is_model(first):
        return resolve_model(None), list(arguments)
    model = resolve_predictor(first)
    if not rest:
        raise typer.BadParameter(f"got the model {first} but no INPUT, expected images, a folder or shapes")
    return model, rest


def _is_model(text: str) -> bool:
    """Return whether the first argument is a model, or looks like a mistyped one."""
    if is_url(text):
        return True
    path = Path(text)
    if path.is_dir():
        return (path / "recipe.json").is_file() or (path / "config.json").is_file()
    if path.exists() or is_source(text) or any(sign in text for sign in "*?["):
        return path.suffix in artifact_suffixes()
    return not is_image_name(path)


def _report(result: dict[str, Any]) -> list[Any]:
    """Return the terminal output for the predictions."""
    rows = [
        (image["input"], _size(image), f"{image['ms']:.0f}", _areas(image["areas"]))
        for image in result["images"]
    ]
    masks = table(f"Masks in {result['out']}", ("image", "size", "ms", "classes"), rows)
    masks.columns[-1].justify = "left"
    shown: list[Any] = [masks]
    if more := result["kept"] + result["predicted"] - len(rows):
        shown.append(f"and {more:,} more: {Path(result['out']) / NAME}")
    if failed := [error["input"] for error in result["errors"]]:
        others = f" and {len(failed) - SHOWN:,} more" if len(failed) > SHOWN else ""
        shown.append(f"not predicted: {', '.join(failed[:SHOWN])}{others}")
    return [*shown, f"{result['model']}, {result['backend']}: {result['runtime']}"]


def _size(image: dict[str, Any]) -> str:
    height, width = image["size"]
    return f"{width}x{height}" + (f", {image['frames']:,} frames" if "frames" in image else "")


def _areas(areas: dict[str, float]) -> str:
    from zoo.pages.overlay import percent

    return ", ".join(f"{name} {percent(share)}" for name, share in areas.items())
