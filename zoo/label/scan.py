"""Unreliability and features of many images, from one pass of a model over each."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from zoo.data.inspect.facts import THUMB_PX
from zoo.errors import DatasetError, InvalidImageError, ZooError
from zoo.models.segmentation import segmentation_networks
from zoo.predict.stream import Failed, Options, stream
from zoo.predictors.base import Predictor
from zoo.predictors.outputs import CONFIDENCE, LOGITS, MASK, OUTPUTS
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from zoo.label.pool import Item
    from zoo.predictors.eager import EagerPredictor
    from zoo.predictors.limits import Limits

log = logging.getLogger(__name__)

CALIBRATED = "reliability"
"""Output that is preferred to the confidence where a model has it."""
ENTROPY, FEATURES, UNRELIABILITY = "entropy", "features", "unreliability"
SHOWN = 20
"""Number of images that cannot be read that are logged."""


class Scan(NamedTuple):
    """Measurements of N images.

    Args:
        unreliability: (N,) float32, mean probability that a pixel's class is wrong, as the score says it.
        entropy: (N,) float32, mean entropy of a pixel's classes; zero unless it was requested.
        features: (N, D) float32, features of the encoder, averaged over the image.
        thumbs: (N, 32, 32) uint8 gray thumbnails.
        digests: digest of the pixels of each image.
        failures: error of each image that could not be read, by index.
    """

    unreliability: NDArray[np.float32]
    entropy: NDArray[np.float32]
    features: NDArray[np.float32]
    thumbs: NDArray[np.uint8]
    digests: list[bytes]
    failures: dict[int, str]


class Looks(NamedTuple):
    """How N images look, by which their copies are found; fields as in `Scan`."""

    thumbs: NDArray[np.uint8]
    digests: list[bytes]
    failures: dict[int, str]


class Scorer(Predictor):
    """A model that returns measurements of images instead of masks.

    Args:
        predictor: predictor of the model.
        score: output that says how reliable each pixel is, 0 to 255.
        entropy: whether to measure the entropy too.
    """

    backend = "eager"

    def __init__(self, predictor: EagerPredictor, score: str, *, entropy: bool = False) -> None:
        super().__init__(predictor.classes, predictor.preprocessing)
        self.predictor, self.score, self.entropy = predictor, score, entropy
        networks = segmentation_networks(predictor.model)
        self.encoder = next(iter(networks.values())).encoder

    @property
    def limits(self) -> Limits:
        """Return the shapes that the model accepts."""
        return self.predictor.limits

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Return the measurements of a batch by name, each (B,), features (B, D)."""
        kept: list[Tensor] = []

        def keep(module: object, arguments: object, features: list[Tensor]) -> None:  # noqa: ARG001
            kept.append(features[-1].float().mean(dim=(2, 3)))

        names = (self.score, LOGITS) if self.entropy else (self.score,)
        with self.encoder.register_forward_hook(keep):
            found = self.predictor.infer(images, names)
        [features] = kept
        reliability = found[self.score].mean(axis=(1, 2), dtype=np.float64) / 255
        return {
            UNRELIABILITY: (1 - reliability).astype(np.float32),
            FEATURES: features.cpu().numpy(),
            ENTROPY: _entropy(found[LOGITS]) if self.entropy else np.zeros(len(images), np.float32),
        }


def _entropy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean entropy of the pixels of each image, (B,)."""
    log_prob = torch.from_numpy(logits).log_softmax(dim=1)
    found: NDArray[np.float32] = -(log_prob.exp() * log_prob).sum(dim=1).mean(dim=(1, 2)).numpy()
    return found


def score_of(predictor: Predictor, wanted: str | None) -> str:
    """Return the output that says how reliable each pixel is: the requested one, or the best available.

    Raises:
        ZooError: an output that the model does not have, or that is none of 0 to 255.
    """
    usable = [
        name
        for name in predictor.available
        if name not in (MASK, LOGITS) and OUTPUTS[name].dtype == "uint8" and not OUTPUTS[name].channels
    ]
    if wanted is None:
        return CALIBRATED if CALIBRATED in usable else CONFIDENCE
    if wanted not in usable:
        raise ZooError(f"--score {wanted}: got no such score of this model, expected {' or '.join(usable)}")
    return wanted


def scan(scorer: Scorer, items: Sequence[Item], batch: int | None = None) -> Scan:
    """Return the measurements of images, which are read as they are needed.

    Raises:
        ZooError: no image can be read.
    """
    count = len(items)
    thumbs = np.zeros((count, THUMB_PX, THUMB_PX), np.uint8)
    digests = [b""] * count
    failures: dict[int, str] = {}
    values = np.zeros((2, count), np.float32)
    features = np.zeros((count, 0), np.float32)

    def read(index: int) -> NDArray[np.uint8]:
        try:
            image = items[index].read()
        except DatasetError as error:
            raise InvalidImageError(str(error)) from error  # one image of many
        thumbs[index], digests[index] = _look(image)
        return image

    results = stream(scorer, range(count), read, Options(batch=batch))
    with Progress(count) as progress, closing(results):
        for result in results:
            progress.advance()
            if isinstance(result, Failed):
                failures[result.item] = str(result.error)
                continue
            found = result.raw.outputs
            if not features.shape[1]:
                features = np.zeros((count, found[FEATURES].shape[0]), np.float32)
            features[result.item] = found[FEATURES]
            values[:, result.item] = found[UNRELIABILITY], found[ENTROPY]
    _report(failures, count)
    return Scan(values[0], values[1], features, thumbs, digests, failures)


def look(items: Sequence[Item]) -> Looks:
    """Return how images look, without a model; those that cannot be read are logged."""
    thumbs = np.zeros((len(items), THUMB_PX, THUMB_PX), np.uint8)
    digests = [b""] * len(items)
    failures: dict[int, str] = {}

    def read(index: int) -> None:
        try:
            thumbs[index], digests[index] = _look(items[index].read())
        except ZooError as error:
            failures[index] = str(error)

    with ThreadPoolExecutor() as executor, Progress(len(items)) as progress:
        for _ in executor.map(read, range(len(items))):
            progress.advance()
    _warn(failures)
    return Looks(thumbs, digests, failures)


def _look(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bytes]:
    """Return the gray thumbnail of an image and the digest of its pixels."""
    gray = Image.fromarray(image).convert("L")
    thumb = np.asarray(gray.resize((THUMB_PX, THUMB_PX), Image.Resampling.HAMMING))
    return thumb, hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _warn(failures: dict[int, str]) -> None:
    """Log images that could not be read."""
    for message in list(failures.values())[:SHOWN]:
        log.warning("warning: %s", message)


def _report(failures: dict[int, str], count: int) -> None:
    """Log images that could not be read; raise if none could be."""
    _warn(failures)
    if failures and len(failures) == count:
        raise ZooError(f"none of {count:,} images can be scored, the first: {next(iter(failures.values()))}")
