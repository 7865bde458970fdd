"""Masks of many images: returned, or written to a folder from which an interrupted call resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from zoo.api.model import Model, read_image
from zoo.errors import BundleError
from zoo.predict.folder import DEFAULT_LIMIT, FolderOptions, Predictions, format_of, predict_to
from zoo.predict.inputs import find_inputs
from zoo.predict.stream import Failed, Options, stream
from zoo.predictors.limits import OVERLAP
from zoo.predictors.outputs import MASK, RELIABILITY, check_given, check_unknown, without_unsure
from zoo.predictors.tiles import Tiling, check_tiling
from zoo.resolve import ModelLike, device_of, model_text, resolve_predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.api.model import Picture
    from zoo.classes import Mask
    from zoo.image_format import ImageFormat
    from zoo.predictors.base import Predictor


@overload
def predict(
    model: ModelLike | Model,
    images: Picture | Sequence[Picture],
    *,
    out: None = None,
    limit: int = DEFAULT_LIMIT,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    unknown_below: float | None = None,
    device: str | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Mask]: ...


@overload
def predict(
    model: ModelLike,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    overlay: bool = False,
    outputs: Sequence[str] = (),
    limit: int = DEFAULT_LIMIT,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    unknown_below: float | None = None,
    overwrite: bool = False,
    device: str | None = None,
) -> Predictions: ...


def predict(
    model: ModelLike | Model,
    images: Picture | Sequence[Picture],
    *,
    out: str | Path | None = None,
    overlay: bool = False,
    outputs: Sequence[str] = (),
    limit: int = DEFAULT_LIMIT,
    batch: int | None = None,
    tile: int | None = None,
    overlap: float = OVERLAP,
    unknown_below: float | None = None,
    overwrite: bool = False,
    device: str | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Mask] | Predictions:
    """Return the masks of images in their order, or write them to a folder.

    Images are read ahead in threads and run in batches. With `out`, an interrupted call resumes.

    Args:
        model: a run, a bundle, an `.onnx` or `.engine` file, `http://HOST:PORT` of a server, or without `out`
            what `zoo.load` returned; None for the newest run.
        images: files, folders, patterns such as `new/*.jpg`, or `shapes`; without `out` also arrays and
            Pillow images. The files of a folder are in alphabetical order.
        out: folder for index PNG masks and their journal; None returns masks, all of which are in memory.
        overlay: whether to also draw each mask over its image.
        outputs: other outputs to write, e.g. `confidence`.
        limit: largest number of images from a data source such as `shapes`.
        batch: images in a batch; None for 8, fewer if they are large.
        tile: side in pixels of tiles that images are cut into at their original size, with blended logits;
            None for no tiles.
        overlap: share of a tile's side that it shares with the next one, in [0, 0.9].
        unknown_below: reliability, 0 to 1, below which a pixel of a mask is class 255, of a calibrated model;
            None for no such pixel.
        overwrite: whether to predict images again whose results are there, and to replace other files.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        on_progress: called with the numbers of images done and in all.

    Raises:
        InvalidImageError: without `out`, an image that cannot be read or predicted.
        ZooError: a model that cannot be used, or a folder that cannot be written to.
    """
    tiling = Tiling.of(tile, overlap)
    if out is not None:
        if isinstance(model, Model):
            raise BundleError(
                f"got out={str(out)!r} with a loaded model, expected its path: its journal names it"
            )
        options = FolderOptions(
            overlay,
            tuple(outputs),
            limit,
            batch,
            overwrite,
            device,
            tiling=tiling,
            unknown_below=unknown_below,
        )
        texts = [str(each) for each in _listed(images)]
        return predict_to(resolve_predictor(model_text(model)), texts, Path(out), options)
    predictor, readers = _ready(model, _listed(images), limit, device)
    return _masks(predictor, readers, Options(batch=batch, tiling=tiling), unknown_below, on_progress)


def _ready(
    model: ModelLike | Model, pictures: Sequence[Picture], limit: int, device: str | None
) -> tuple[Predictor, list[Reader]]:
    """Return a predictor and a function that reads each image; those of a bundle are listed first."""
    from zoo.predictors.load import load_predictor

    if isinstance(model, Model):
        return model.predictor, _readers(pictures, limit, model.predictor.format)
    path = resolve_predictor(model_text(model))
    known = format_of(path)
    readers = None if known is None else _readers(pictures, limit, known)
    predictor = load_predictor(path, device=device_of(path, device))
    return predictor, _readers(pictures, limit, predictor.format) if readers is None else readers


def _listed(images: Picture | Sequence[Picture]) -> list[Picture]:
    """Return one or more pictures as a list; an array of four dimensions is a batch."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 3 else list(images)
    return list(images)


Reader = Callable[[], "NDArray[Any]"]


def _readers(pictures: Sequence[Picture], limit: int, format_: ImageFormat) -> list[Reader]:
    """Return a function that reads each image; a name may stand for several."""
    readers: list[Reader] = []
    for picture in pictures:
        if isinstance(picture, str | os.PathLike):
            found = find_inputs([os.fspath(picture)], limit, Path("predictions"), format_)
            readers += [each.read for each in found]
        else:
            readers.append(partial(read_image, picture, format_))
    return readers


def _masks(
    predictor: Predictor,
    readers: Sequence[Reader],
    options: Options,
    unknown_below: float | None,
    on_progress: Callable[[int, int], object] | None,
) -> list[Mask]:
    """Return the masks of images in their order."""
    if unknown_below is not None:
        check_unknown(unknown_below, predictor.classes)
        options = options._replace(outputs=(MASK, RELIABILITY))
        check_given(predictor.available, options.outputs, predictor.calibration)
    if options.tiling is not None:
        check_tiling(predictor, options.outputs)
    low, high = predictor.limits
    options = options._replace(least=low[0], most=high[0])
    masks: dict[int, Mask] = {}
    for result in stream(predictor, range(len(readers)), lambda index: readers[index](), options):
        if isinstance(result, Failed):
            raise result.error
        found = result.prediction()
        masks[result.item] = (
            found.mask if unknown_below is None else without_unsure(found.outputs, unknown_below)
        )
        if on_progress is not None:
            on_progress(len(masks), len(readers))
    return [masks[index] for index in range(len(readers))]
