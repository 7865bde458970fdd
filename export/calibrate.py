"""Calibration images for int8: real images, selected to differ in the model's features."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from zoo.data.files import IMAGE_SUFFIXES, read_image_file
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.data.source import evenly_spaced
from zoo.errors import DatasetError, ExportError
from zoo.models.segmentation import SegmentationNetwork
from zoo.preprocess import normalize, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from zoo.models.deployable import Deployable
    from zoo.preprocess import Preprocessing

POOL = 4
"""Candidates per selected image; each costs a forward pass."""


class Pool(NamedTuple):
    """Candidate images for calibration."""

    ids: tuple[str, ...]
    read: Callable[[str], NDArray[np.uint8]]
    """Function from an id to the (H, W, 3) uint8 RGB image."""
    origin: str


class CalibrationImages(NamedTuple):
    """Calibration images at the network's size, in order of selection."""

    images: tuple[NDArray[np.uint8], ...]
    """Images, each (H, W, 3) uint8."""
    sha256: dict[str, str]
    """SHA-256 of the pixels of each image by id, in the same order."""
    origin: str


def calibration_pool(spec: str | None, recipe: Mapping[str, Any], partition: Mapping[str, Any]) -> Pool:
    """Return the candidate images for calibration, which include no validation image.

    Args:
        spec: a folder of images or a data source; None for the unlabeled images of the run.
        recipe: recipe in the bundle.
        partition: partition in the bundle's provenance.

    Raises:
        ExportError: no images are found; ranges of generated images would be useless.
    """
    try:
        pool = _recorded(recipe, partition) if spec is None else _named(spec)
    except DatasetError as error:
        raise ExportError(
            f"--precision int8 needs real images for calibration, got none ({error}): select a folder of "
            f"images with --calibration-data"
        ) from error
    return pool


def choose(pool: Pool, count: int, deployable: Deployable, preprocessing: Preprocessing) -> CalibrationImages:
    """Return up to `count` images of the pool, selected by k-center on the model's features.

    Args:
        pool: candidates; `POOL` times `count` of them, evenly spaced, are considered.
        count: number of images, N.
        deployable: model whose encoder computes the features.
        preprocessing: preprocessing of the artifact.
    """
    candidates = evenly_spaced(pool.ids, POOL * count)
    encoded = np.stack([_features(pool.read(id_), deployable, preprocessing) for id_ in candidates])
    ids = [candidates[index] for index in k_center(encoded, min(count, len(candidates)))]
    originals = [pool.read(id_) for id_ in ids]
    return CalibrationImages(
        images=tuple(
            resize_image(image, preprocessing.model_size(image.shape[0], image.shape[1]))
            for image in originals
        ),
        sha256={
            id_: hashlib.sha256(image.tobytes()).hexdigest()
            for id_, image in zip(ids, originals, strict=True)
        },
        origin=f"{len(ids)} of {pool.origin}",
    )


def k_center(features: NDArray[np.floating[Any]], count: int) -> list[int]:
    """Return `count` points such that every point is near a selected one (greedy k-center, Gonzalez 1985).

    The first point is the nearest to the mean, each next one the farthest from those selected before: the
    first n of the result are the selection of n points.

    Args:
        features: (P, D) features, P >= count.
        count: number of points to select.
    """
    chosen = [int(_distance(features, features.mean(axis=0)).argmin())]
    nearest = _distance(features, features[chosen[0]])
    while len(chosen) < count:
        nearest[chosen] = -1  # never select a point twice
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distance(features, features[chosen[-1]]))
    return chosen


def _distance(features: NDArray[np.floating[Any]], point: NDArray[np.floating[Any]]) -> NDArray[Any]:
    distance: NDArray[Any] = np.linalg.norm(features - point, axis=1)
    return distance


@torch.inference_mode()
def _features(
    image: NDArray[np.uint8], deployable: Deployable, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Return the (D,) mean of the encoder's last features, at half the network's size for speed."""
    network = next(module for module in deployable.modules() if isinstance(module, SegmentationNetwork))
    height, width = preprocessing.model_size(image.shape[0], image.shape[1])
    small = torch.from_numpy(resize_image(image, (max(32, height // 2), max(32, width // 2))).copy())
    features = network.encoder(normalize(small.permute(2, 0, 1)[None], preprocessing))[-1]
    result: NDArray[np.float32] = features.mean(dim=(0, 2, 3)).numpy()
    return result


def _recorded(recipe: Mapping[str, Any], partition: Mapping[str, Any]) -> Pool:
    """Return the unlabeled images of a run, or the labeled ones if it has no others."""
    spec = recipe.get("data", {}).get("spec")
    if spec is None:
        raise DatasetError("the model's recipe names no data")
    source = open_source(str(spec))
    split = make_partition(source, partition.get("spec"), int(partition.get("seed", 0)))
    kind, ids = ("unlabeled", split.unlabeled) if split.unlabeled else ("labeled", split.labeled)
    return Pool(ids, source.read_image, f"{len(ids)} {kind} images of {spec}")


def _named(spec: str) -> Pool:
    folder = Path(spec)
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if names:
            return Pool(
                tuple(names), lambda name: read_image_file(folder / name), f"{len(names)} images of {spec}"
            )
    source = open_source(spec)
    ids = (*source.ids("unlabeled"), *source.ids("train"))
    if not ids:
        raise DatasetError(f"{spec} has no images in train or unlabeled")
    return Pool(ids, source.read_image, f"{len(ids)} training images of {spec}")
