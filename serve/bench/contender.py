"""Loaded backends with their images and rows."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from logging import getLogger
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from zoo.bundle.bundle import WEIGHTS_NAME, find_bundle, load_config
from zoo.data.open import open_source
from zoo.errors import DatasetError, ZooError
from zoo.predictors.backends import BACKENDS
from zoo.predictors.exported import ExportedPredictor
from zoo.predictors.load import load_predictor
from zoo.preprocess import resize_image
from zoo.serve.bench.choices import REFERENCE, choices
from zoo.serve.bench.gpu import MemoryMeter
from zoo.serve.bench.measurement import Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Mask
    from zoo.data.source import Source
    from zoo.predictors.backends import Device
    from zoo.predictors.base import Predictor
    from zoo.serve.bench.choices import Choice
    from zoo.serve.bench.measurement import Settings

    Images = NDArray[Any]
    Say = Callable[[str], None]

log = getLogger(__name__)

IMAGES = 16
"""Number of images to run and to measure the agreement on."""

FALLBACK = "shapes"
"""Source of the images if the model's training data are not available."""

REASON_LENGTH = 240


class Samples(NamedTuple):
    """Images that all backends get, and eager PyTorch's masks."""

    images: Images  # (N, H, W, C)
    truth: Mask | None  # (N, H, W)

    def batch(self, size: int) -> Images:
        """Return the first `size` images; a small set is repeated."""
        return self.images[np.arange(size) % len(self.images)]

    def agreement(self, predictor: Predictor, size: int) -> float | None:
        """Return the share of pixels with eager's class, in batches of `size`; None without `truth`."""
        if self.truth is None:
            return None
        count = math.ceil(len(self.images) / size) * size
        order = np.arange(count) % len(self.images)
        masks = np.concatenate([predictor.run(self.images[chunk]) for chunk in order.reshape(-1, size)])
        return float((masks == self.truth[order]).mean())


class Contender(NamedTuple):
    """A loaded backend with its images and its row so far."""

    predictor: Predictor
    samples: Samples
    source: Source
    memory: MemoryMeter | None
    """GPU memory meter; None on the CPU."""
    row: Row


def load_contenders(model: Path, settings: Settings, say: Say) -> tuple[list[Contender], list[Row]]:
    """Return the contenders of a model that can be loaded, and the rows of the others."""
    loaded: list[tuple[Predictor, MemoryMeter | None, Row]] = []
    failed: list[Row] = []
    unwanted = {} if settings.backends else left_out(settings)
    for choice, path in choices(model, settings.backends):
        row = Row(model=str(model), backend=choice.backend, precision=choice.precision)
        if choice.backend in unwanted:
            failed.append(row.updated(reason=unwanted[choice.backend]))
            continue
        say(f"{path}: loading {choice.name}")
        try:
            predictor, memory, facts = load_backend(choice, path, settings)
        except Exception as error:  # a runtime raises what it likes; the row tells
            failed.append(row.updated(reason=reason(error)))
        else:
            loaded.append((predictor, memory, row.updated(**facts)))
    if not loaded:
        return [], failed
    source = image_source(model, settings.data)
    source.check_format(loaded[0][0].format)
    images = read_images(source, loaded[0][0].preprocessing.imgsz)
    eager = next((predictor for predictor, _, row in loaded if row.backend == REFERENCE), None)
    truth = None if eager is None else np.concatenate([eager.run(image[None]) for image in images])
    samples = Samples(images, truth)
    found = [
        Contender(predictor, samples, source, memory, row.updated(data=source.spec))
        for predictor, memory, row in loaded
    ]
    return found, failed


def left_out(settings: Settings) -> dict[str, str]:
    """Return the backends that are measured only on request, with the reasons."""
    device: Device = "cpu" if settings.device == "cpu" else "cuda"
    reasons = {}
    for name, row in BACKENDS.items():
        if device == "cuda" and device not in row.devices:
            reasons[name] = "runs on the CPU: measure it with --device cpu"
        elif settings.quick and row.compiles:
            reasons[name] = (
                f"skipped by --quick, because compiling takes longest: add it with --backends {name}"
            )
        elif device in row.left_out:
            reasons[name] = f"{row.left_out[device]}: add it with --backends {name}"
    return reasons


def load_backend(
    choice: Choice, path: Path, settings: Settings
) -> tuple[Predictor, MemoryMeter | None, dict[str, Any]]:
    """Return a loaded backend and the fields of its row that are known before it runs.

    Raises:
        BundleError: it cannot be loaded, or the file does not have the selected precision.
    """
    on_gpu = torch.cuda.is_available() and (
        settings.device != "cpu" or "cpu" not in BACKENDS[choice.backend].devices
    )
    memory = MemoryMeter() if on_gpu else None
    options = {"device": settings.device, "threads": settings.threads, **choice._asdict()}
    start = time.perf_counter()
    with memory.watch() if memory else nullcontext():
        predictor = load_predictor(path, **options)
    load_s = time.perf_counter() - start
    if settings.imgsz is not None:  # images reach the network as in production at this size
        size = {"imgsz": settings.imgsz}
        predictor.preprocessing = predictor.preprocessing.model_copy(update=size)
    artifact = predictor.path if isinstance(predictor, ExportedPredictor) else path / WEIGHTS_NAME
    facts = {
        "precision": predictor.precision,
        "runtime": predictor.description,
        "artifact": str(artifact),
        "artifact_bytes": artifact.stat().st_size,
        "load_s": load_s,
        "build_s": predictor.build_seconds,
    }
    return predictor, memory, facts


def image_source(model: Path, spec: str | None) -> Source:
    """Return the source of the images: `spec`, or the model's training data.

    Raises:
        DatasetError: `spec` cannot be used.
    """
    if spec is not None:
        return open_source(spec)
    bundle = find_bundle(model)
    spec = (bundle and load_config(bundle).data_spec) or FALLBACK
    try:
        return open_source(spec)
    except DatasetError as error:
        log.warning("measuring on images of %s: the training data cannot be used (%s)", FALLBACK, error)
        return open_source(FALLBACK)


def read_images(source: Source, size: tuple[int, int]) -> Images:
    """Return (N, H, W, C) images of a source, resized to (height, width) `size`.

    Raises:
        DatasetError: the source has no images.
    """
    ids = source.ids("val") or source.ids("train") or source.ids("unlabeled")
    if not ids:
        raise DatasetError(f"{source.spec} has no images, expected some to measure on: use --data shapes")
    return np.stack([resize_image(source.read_image(id_), size) for id_ in ids[:IMAGES]])


def reason(error: Exception) -> str:
    """Return the error as one line."""
    if isinstance(error, ZooError):
        return str(error)
    paragraph = str(error).strip().split("\n\n")[0]
    return " ".join(f"{type(error).__name__}: {paragraph}".split())[:REASON_LENGTH]
