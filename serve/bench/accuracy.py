"""mIoU of the artifact that is timed, at the size at which it is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.data.source import Source, Split
from zoo.errors import ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.predictors.eager import CompiledPredictor
from zoo.serve.bench.measurement import Accuracy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor


class EvenSubset(Source):
    """Evenly spaced `val` images of a source.

    Args:
        source: source of the images.
        count: maximum number of images.
    """

    def __init__(self, source: Source, count: int) -> None:
        super().__init__(source.spec, source.classes)
        self.source = source
        all_ids = source.ids("val")
        count = min(count, len(all_ids))
        # centers of equal parts
        self.val = tuple(all_ids[(2 * part + 1) * len(all_ids) // (2 * count)] for part in range(count))

    def ids(self, split: Split) -> tuple[str, ...]:
        """Return the selected ids of `val`, none of the other splits."""
        return self.val if split == "val" else ()

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        """Return the image of an id, (H, W, 3) uint8 RGB."""
        return self.source.read_image(id_)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        """Return the mask of an id, (H, W) uint8, labels 0..K-1 or `IGNORE`."""
        return self.source.read_mask(id_)


def measure_accuracy(predictor: Predictor, source: Source, count: int) -> Accuracy:
    """Return the accuracy of a predictor on at most `count` labeled images, under protocol `whole`.

    Raises:
        DatasetError: the source has no labels, or labels of other classes.
        ZooError: `torch.compile` would compile for each image size.
    """
    if not count:
        raise ZooError("not measured: --images 0")
    excerpt = EvenSubset(source, count)
    if isinstance(predictor, CompiledPredictor):
        _check_sizes(predictor, excerpt)
    metrics = evaluate(predictor, excerpt)
    return Accuracy(
        miou=metrics["miou"],
        pixel_accuracy=metrics["pixel_accuracy"],
        images=len(excerpt.val),
        available=len(source.ids("val")),
    )


def _check_sizes(predictor: Predictor, source: EvenSubset) -> None:
    sizes = {predictor.preprocessing.model_size(*source.read_image(id_).shape[:2]) for id_ in source.val}
    if len(sizes) > 1:
        raise ZooError(
            f"the images of {source.spec} have {len(sizes)} sizes at the network, and torch.compile would "
            f"compile for each: see eager's mIoU and the agreement with it"
        )
