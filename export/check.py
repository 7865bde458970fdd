"""Comparison of artifacts with the eager model, and diagnosis of failures."""

from __future__ import annotations

from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import BundleError
from zoo.export.graph.layers import TOLERANCES, find_departure, layer_errors
from zoo.export.parity.accuracy import ReferenceMasks
from zoo.export.parity.compare import (
    Difference,
    Parity,
    compare,
    describe,
    next_batch,
    parity_shapes,
    weakness,
)
from zoo.export.parity.images import labeled_images, parity_images
from zoo.export.parity.tolerance import GATES, Tolerance
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import resize_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.bundle.bundle import BundleConfig
    from zoo.export.graph.fold import Prepared
    from zoo.export.options import ExportOptions
    from zoo.models.deployable import Deployable
    from zoo.predictors.artifact import Precision
    from zoo.predictors.base import Predictor
    from zoo.predictors.exported import ExportedPredictor


SIDES = ((3.0, 3.0), (5.3, 1.1), (1.1, 5.3), (0.37, 0.59))
"""Factors of the height and width of photos, which take turns: large, tall, wide and tiny."""

PHOTO_GATE = Tolerance(min_agreement=0.999)
"""Tolerance of files that resize photos themselves: at every photo."""


class Checker:
    """Comparison of artifacts with the eager fp32 model of a bundle.

    Args:
        deployable: model of the bundle.
        config: configuration of the bundle, with the artifacts' preprocessing.
        options: options of the export: images and tolerances.
        say: called with a line for each step.
    """

    def __init__(
        self, deployable: Deployable, config: BundleConfig, options: ExportOptions, say: Callable[[str], None]
    ) -> None:
        self.config = config
        self.options = options
        self.say = say
        self.images = parity_images(options.images, config.recipe, say, config.preprocessing.format)
        self.reference = EagerPredictor(deployable, config)
        self._warned: set[str] = set()

    @cached_property
    def judge(self) -> ReferenceMasks | None:
        """Return the judge on labeled images, None if there are no labeled images."""
        labeled = labeled_images(
            self.options.images,
            self.config.recipe,
            self.config.classes,
            self.config.preprocessing.format,
        )
        if labeled is None:
            self.say("accuracy was not compared: no labeled images")
            return None
        self.say(f"eager model: predicting {labeled.origin}")
        return ReferenceMasks(self.reference, labeled)

    def gate(self, precision: Precision) -> Tolerance:
        """Return the tolerance of a precision."""
        changes = {"min_agreement": self.options.min_agreement, "max_drop": self.options.max_drop}
        changes = {name: value for name, value in changes.items() if value is not None}
        if "min_agreement" in changes:
            changes["max_margin"] = None
        return GATES[precision].model_copy(update=changes)

    def compare(self, name: str, artifact: Predictor, precision: Precision) -> Parity:
        """Return the parity of an artifact and, on labeled images, its change of accuracy."""
        wanted = parity_shapes(self.config.preprocessing.imgsz, self.options.batch[2])
        takes = self.reference.limits
        shapes = tuple(dict.fromkeys((batch, *takes.clamp((high, wide))) for batch, high, wide in wanted))
        self.say(f"{name}: comparing at {len(shapes)} shapes with {artifact.description}")
        parity = compare(artifact, self.reference, self.images, shapes, self.gate(precision))
        if not parity.agrees:
            return parity
        return self._remarked(
            parity if self.judge is None else self._judged(name, artifact, parity, self.judge)
        )

    def _judged(self, name: str, artifact: Predictor, parity: Parity, judge: ReferenceMasks) -> Parity:
        """Return a parity with the change of accuracy on labeled images."""
        accuracy = judge.judge(artifact)
        parity = parity.model_copy(update={"accuracy": accuracy})
        self.say(f"{name}: {describe(accuracy)}")
        if parity.passed and not parity.gate.is_shown(accuracy):
            self.say(
                f"{name}: {accuracy.images} images cannot exclude a drop of {-100 * accuracy.low:.2f} "
                "points: "
                f"more labeled images would narrow the interval"
            )
        return parity

    def _remarked(self, parity: Parity) -> Parity:
        """Return a parity with the reason why it proves nothing, if there is one, after a warning."""
        reason = weakness(parity, self.config.classes.names)
        if reason and reason not in self._warned:
            self._warned.add(reason)
            self.say(
                f"warning: agreement proves nothing: {reason}; train it longer, or compare on images of "
                f"other classes with --images"
            )
        return parity.model_copy(update={"weakness": reason})

    def compare_photos(self, name: str, artifact: Predictor) -> Parity:
        """Return the parity of a file that resizes photos, on photos at their own size and at another one."""
        differences = []
        for image, factors in zip(self.images.images, cycle(SIDES), strict=False):
            resized = round(image.shape[0] * factors[0]), round(image.shape[1] * factors[1])
            for size in ((image.shape[0], image.shape[1]), resized):
                if not self.reference.limits.fits(self.config.preprocessing.model_size(*size)):
                    continue  # too thin for the network
                photo = resize_image(image, size)
                expected, found = self.reference.predict(photo), artifact.predict(photo)
                differing = int((expected != found).sum())
                counts = np.bincount(expected.ravel(), minlength=len(self.config.names))
                difference = Difference(
                    shape=(1, *expected.shape),
                    agreement=1 - differing / expected.size,
                    differing=differing,
                    margin=0.0,
                    counts=tuple(counts.tolist()),
                )
                differences.append(difference)
        asked = self.options.min_agreement
        gate = PHOTO_GATE if asked is None else PHOTO_GATE.model_copy(update={"min_agreement": asked})
        self.say(f"{name}: compared on {len(differences)} photos with {artifact.description}")
        return Parity(
            gate=gate, images=self.images.origin, runtime=artifact.description, differences=tuple(differences)
        )

    def agreement(self, artifact: Predictor) -> float:
        """Return the share of pixels that have the model's class, on labeled images if there are any."""
        if self.judge is not None:
            return self.judge.judge(artifact).agreement
        (shape, *_) = parity_shapes(self.config.preprocessing.imgsz, 1)
        return compare(artifact, self.reference, self.images, [shape], self.gate("int8")).agreement

    def explain(self, path: Path, parity: Parity, prepared: Prepared, precision: Precision) -> str:
        """Return a line that names the first layer of a failed ONNX file that differs from the model.

        Args:
            path: ONNX file that ONNX Runtime can run on the CPU.
            parity: parity of the file; its worst shape is examined.
            prepared: model that the file was exported from.
            precision: precision of the file.
        """
        if any(difference.error for difference in parity.differences):
            return ""  # it does not run at that shape; the error says where
        worst = min(parity.differences, key=lambda difference: difference.agreement)
        batch = next_batch(cycle(self.images.images), worst.shape)
        errors = layer_errors(path, prepared.deployable, self.config.preprocessing, batch)
        departure = find_departure(errors, precision)
        if departure is not None:
            return f"the first layer that differs is {departure}"
        if not errors:
            return ""
        largest = max(errors, key=lambda each: each.error)
        return f"no layer differs by more than {TOLERANCES[precision]:g}; the largest difference is {largest}"

    def batch(self, count: int) -> NDArray[Any]:
        """Return (B, H, W, C) images at the network's size."""
        return next_batch(cycle(self.images.images), (count, *self.config.preprocessing.imgsz))


def find_runtime(onnx: Path, precision: Precision) -> tuple[ExportedPredictor | None, str]:
    """Return the predictor that runs an ONNX file on the CPU, or None and the reason.

    ONNX Runtime has no bf16 convolutions on CPUs; OpenVINO has them if the CPU does.
    """
    if precision != "bf16":
        return OrtPredictor(onnx), ""
    try:
        return OpenVinoPredictor(onnx), ""
    except BundleError as error:
        return None, f"no runtime on this machine computes in bf16: {error}"
