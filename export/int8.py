"""int8 files of one model: which ranges to take, and which layers to leave in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.export.quantize import METHODS, calibrate, quantize, sensitivities, set_metadata
from zoo.predictors.artifact import ONNX_NAMES, TRT_ONNX_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.export.calibrate import CalibrationImages
    from zoo.export.quantize import Flavor, Method
    from zoo.predictors.artifact import ArtifactMetadata

INT8_NAMES: dict[Flavor, str] = {"cpu": ONNX_NAMES["int8"], "trt": TRT_ONNX_NAMES["int8"]}

MAX_EXCLUDED = 0.5
"""Share of the convolutions that may be left in fp32: with more, int8 gains little over fp16."""


class Ranges(NamedTuple):
    """How the ranges of activations were chosen."""

    method: Method
    scores: dict[Method, float]
    """Agreement with the model by method; empty if one was asked for."""


class Quantizer(NamedTuple):
    """What all int8 files of a model are made from."""

    fp32: Path
    """Its fp32 ONNX file."""
    images: CalibrationImages
    metadata: ArtifactMetadata
    """Of the int8 files."""
    folder: Path
    """A temporary one."""

    def build(self, method: Method, flavor: Flavor, excluded: tuple[str, ...] = ()) -> Path:
        """Return a quantized file in the temporary folder.

        Args:
            method: how ranges are taken from activations.
            flavor: what runs it.
            excluded: names of nodes that stay in fp32.
        """
        ranges = self.folder / f"{method}.json"
        if not ranges.is_file():
            calibrate(self.fp32, self.images.images, method, ranges)
        path = self.folder / INT8_NAMES[flavor]
        quantize(self.fp32, ranges, method, flavor, excluded, path)
        set_metadata(path, self.metadata)
        return path

    def best_method(self, score: Callable[[Path], float]) -> tuple[Method, dict[Method, float]]:
        """Return the method whose file scores highest, the first of equals, and the score of each."""
        scores = {method: score(self.build(method, "cpu")) for method in METHODS}
        return max(scores, key=lambda method: scores[method]), scores

    def facts(self, method: Method, scores: dict[Method, float], excluded: tuple[str, ...]) -> dict[str, Any]:
        """Return what the manifest says of the calibration."""
        return {
            "calibration": {
                "images": self.images.origin,
                "sha256": self.images.sha256,
                "method": method,
                "agreement_by_method": scores,
                "excluded": list(excluded),
            }
        }


def more_excluded(
    fp32: Path, quantized: Path, excluded: tuple[str, ...], images: NDArray[np.uint8]
) -> tuple[str, ...] | None:
    """Return twice as many layers to leave in fp32, those that lose most; None if that were too many.

    Args:
        fp32: the file before quantization.
        quantized: a file without `excluded`.
        excluded: names of nodes that are in fp32 already.
        images: (B, H, W, 3) uint8.
    """
    ranked = [each.node for each in sensitivities(fp32, quantized, images)]
    count = max(1, len(excluded))
    if len(excluded) + count > MAX_EXCLUDED * (len(ranked) + len(excluded)):
        return None
    return *excluded, *ranked[:count]
