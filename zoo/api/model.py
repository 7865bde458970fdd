"""Python API: `zoo.load` and the model that it returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from zoo.errors import InvalidImageError
from zoo.image_format import RGB, displayed
from zoo.images import as_rgb, read_rgb
from zoo.listing import find_model
from zoo.predictors.load import load_predictor
from zoo.rasters import read_raster
from zoo.resolve import device_of, is_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zoo.classes import Color, Mask
    from zoo.image_format import ImageFormat
    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Prediction, Predictor

    Picture = NDArray[Any] | Image.Image | str | Path
    """(H, W, C) of the format of the model, a Pillow image, or the path of a file."""


class Model:
    """A loaded model, safe to call from any number of threads.

    In a forked process it runs on the CPU only, and compiled models do not run at all. A copy, and a model
    pickled for a spawned process, is loaded again from the same path.

    Args:
        predictor: predictor that runs the model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, indexed by the values of a mask."""
        return self.predictor.classes.names

    @property
    def palette(self) -> tuple[Color, ...]:
        """Return the RGB color of each class, 0..255."""
        return self.predictor.classes.palette

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, unknown_below: float | None = None
    ) -> list[Mask]: ...

    @overload
    def __call__(self, image: Picture, *, unknown_below: float | None = None) -> Mask: ...

    def __call__(
        self, image: Picture | list[Any] | tuple[Any, ...], *, unknown_below: float | None = None
    ) -> Mask | list[Mask]:
        """Return the mask of an image, or a list of masks for a list of images.

        Args:
            image: (H, W, C) of the format of the model, (H, W, 3) uint8 RGB by default, a Pillow image, or
                the path of a file, whose EXIF orientation is applied; or a list or tuple of these.
            unknown_below: reliability, 0 to 1, below which a pixel is 255, of a calibrated model; None for
                no such pixel.

        Returns:
            (H, W) uint8, or int32 above 255 classes: indices into `classes`.

        Raises:
            InvalidImageError: an image of another type or shape, or a file that cannot be read.
            BundleError: `unknown_below` of a model without reliability or of more than 255 classes.
        """
        if isinstance(image, list | tuple):
            return [self.predictor.predict(self._read(each), unknown_below) for each in image]
        return self.predictor.predict(self._read(image), unknown_below)

    def predict_with_confidence(self, image: Picture) -> Prediction:
        """Return `mask` and `confidence` of an image, both (H, W).

        The confidence is the probability of the predicted class as uint8, where 255 is a probability of 1. It
        is None if an artifact was exported with masks only.

        Raises:
            InvalidImageError: an image of another type or shape, or a file that cannot be read.
        """
        return self.predictor.predict_with_confidence(self._read(image))

    def predict_outputs(self, image: Picture, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the named outputs of an image, e.g. `mask` and `confidence`, at the image's size.

        Args:
            image: image to predict, in any form that `Model` accepts when called.
            outputs: names out of `model.predictor.available`; `zoo.predictors.outputs` defines all outputs.

        Raises:
            InvalidImageError: an image of another type or shape, or a file that cannot be read.
            BundleError: an output that this model does not have.
        """
        return self.predictor.predict_outputs(self._read(image), outputs).outputs

    def overlay(self, image: Picture, mask: Mask | None = None, alpha: float = 0.5) -> Image.Image:
        """Return the image blended with the colors of its mask, with lines between classes.

        Args:
            image: image to draw on, in any form that `Model` accepts when called.
            mask: (H, W) mask of this image; None to predict it.
            alpha: weight of the colors, 0..1.

        Raises:
            InvalidImageError: an image of another type or shape, or a mask of another size than the image.
        """
        from zoo.pages.overlay import overlay

        picture = self._read(image)
        mask = self.predictor.predict(picture) if mask is None else mask
        if mask.shape != picture.shape[:2]:
            raise InvalidImageError(
                f"got a mask of shape {mask.shape}, expected that of the image, {picture.shape[:2]}: pass "
                f"the mask of this image, or none"
            )
        shown = displayed(picture, self.predictor.format)
        return Image.fromarray(overlay(shown, mask, self.predictor.classes, alpha))

    def _read(self, image: Picture) -> NDArray[Any]:
        return read_image(image, self.predictor.format)

    def __repr__(self) -> str:
        return f"Model({len(self.classes)} classes, {self.predictor.backend}: {self.predictor.description})"


def load(
    model: str | os.PathLike[str],
    *,
    backend: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    offline: bool = False,
) -> Model:
    """Return a loaded model.

    Args:
        model: `owner/name[@revision]` on the Hub, `file:DIR/name[@revision]` in a shared folder, a run or
            bundle folder, an `.onnx` or `.engine` file, or `http://host:port[/NAME]` of `zoo serve`, whose
            API key is read from the environment variable `ZOO_API_KEY`. A name in the `zoo.lock` of the
            current folder is loaded at the locked revision.
        backend: a name that `zoo bench --help` lists; `fastest` for the fastest of ONNX Runtime and OpenVINO
            on this CPU, measured at the first load of a bundle; None for `eager` with a bundle, `ort` with an
            `.onnx` file and `trt` with an `.engine` file.
        device: `cpu` or `cuda`; None for a GPU if PyTorch finds one.
        precision: precision of the exported file, for a backend that runs one.
        threads: number of CPU threads; None for one on each core.
        offline: load a Hub model from the cache without accessing the network.

    Raises:
        ZooError: a model that does not exist, or that does not support this backend, device or precision.
    """
    text = os.fspath(model)
    path = text if is_url(text) else find_model(text, offline=offline)
    predictor = load_predictor(
        path, backend=backend, device=device_of(path, device), threads=threads, precision=precision
    )
    return Model(predictor)


def read_image(image: Picture, format_: ImageFormat = RGB) -> NDArray[Any]:
    """Return an image as (H, W, C) of a format.

    Args:
        image: image in any form that `Model` accepts when called; an array is returned unchanged.
        format_: format of the images that the model takes.

    Raises:
        InvalidImageError: an image of another type or format, or one that is unreadable; for RGB, one that is
            transparent or has more than 8 bits a channel.
    """
    if isinstance(image, np.ndarray):
        return image  # the predictor checks it
    if isinstance(image, Image.Image) and format_.is_rgb:
        return as_rgb(image, "the image")
    if not isinstance(image, str | Path):
        pillow = ", a Pillow image" if format_.is_rgb else ""
        raise InvalidImageError(
            f"got a {type(image).__name__}, expected a (height, width, {format_.channels}) {format_.dtype} "
            f"array{pillow} or a file path: convert it"
        )
    return read_rgb(Path(image)) if format_.is_rgb else read_raster(Path(image), format_)
