"""Trial export of a network before its training, so that a long run cannot end with an unexportable model."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.errors import ExportError
from zoo.export.fold import prepare
from zoo.export.parity import Images, compare
from zoo.export.to_onnx import export_onnx
from zoo.export.tolerance import GATES
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.outputs import LOGITS, MASK
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import normalize, resize_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.export.parity import Parity
    from zoo.export.tolerance import Tolerance
    from zoo.image_format import ImageFormat
    from zoo.models.deployable import Deployable
    from zoo.predictors.eager import EagerPredictor

log = logging.getLogger(__name__)

OPTION = "--no-export-check"
SHAPES = ((2, 64, 96), (1, 97, 131))
"""Shapes to compare at: small, since an export of the trained network compares at all others."""


def untrained_gate() -> Tolerance:
    """Return the tolerance: equal logits, and any number of near ties, which are common before training."""
    return GATES["fp32"].model_copy(update={"min_agreement": 0.0, "max_drop": None})


def check_untrained(reference: EagerPredictor) -> None:
    """Export a network to ONNX in a temporary folder, and compare its logits and masks.

    The state of PyTorch's random numbers is kept.

    Args:
        reference: predictor of the untrained network, on the CPU.

    Raises:
        ExportError: the network cannot be exported, or its file differs.
    """
    started = time.perf_counter()
    deployable: Deployable = reference.model.deployable  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(prefix="zoo-untrained-") as folder:
        try:
            parity = _parity(reference, deployable, Path(folder) / "model.onnx")
        except ExportError as error:
            raise ExportError(f"{error}; {OPTION} trains the network all the same") from error
    if not parity.passed:
        raise ExportError(
            f"the untrained network differs in {parity.runtime}: {_reason(parity)}; {OPTION} trains it all "
            "the same"
        )
    seconds = time.perf_counter() - started
    log.info("the untrained network passed a trial export to ONNX (%.0f s; %s skips it)", seconds, OPTION)


def _parity(reference: EagerPredictor, deployable: Deployable, path: Path) -> Parity:
    """Return the parity of a network with its exported file, on noise."""
    classes, preprocessing = reference.classes, reference.preprocessing
    low = reference.limits.low[1:]
    shapes = tuple((batch, *reference.limits.clamp((high, wide))) for batch, high, wide in SHAPES)
    images = Images(tuple(_noise(seed, preprocessing.format) for seed in range(2)), "noise")
    sample = torch.from_numpy(resize_image(images.images[0], shapes[0][1:]).copy()).permute(2, 0, 1)[None]
    prepared = prepare(deployable, normalize(sample, preprocessing), untrained_gate())
    metadata = ArtifactMetadata(
        names=classes.names,
        palette=classes.palette,
        preprocessing=preprocessing,
        precision="fp32",
        output=f"{MASK}+{LOGITS}",
        weights_sha256="",
        smallest=low,
    )
    export_onnx(prepared.deployable, metadata, path)
    return compare(OrtPredictor(path), reference, images, shapes, untrained_gate())


def _noise(seed: int, format_: ImageFormat) -> NDArray[Any]:
    """Return an image of smooth noise, within the ranges of the format."""
    random, shape = np.random.default_rng(seed), (9, 13, format_.channels)
    if format_.is_rgb:
        return resize_image(random.integers(0, 256, shape, np.uint8), (97, 131))
    low, high = np.array(format_.bounds).T
    return resize_image(random.uniform(low, high, shape).astype(format_.dtype), (97, 131))


def _reason(parity: Parity) -> str:
    """Return what differs, on one line."""
    if error := next((each.error for each in parity.differences if each.error), ""):
        return error
    if parity.margin >= (parity.gate.max_margin or np.inf):
        return f"classes that lead by {parity.margin:.2g} of the logits' range are not chosen"
    name, error_of = max(parity.errors.items(), key=lambda item: item[1])
    return f"{name} are off by {error_of:.2g} of their range, expected at most {parity.gate.max_error:g}"
