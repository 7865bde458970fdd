"""mIoU of the artifact that is timed, at the size at which it is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.data.source import Source, Subset, evenly_spaced
from zoo.errors import ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.predictors.eager import CompiledPredictor
from zoo.serve.bench.measurement import Accuracy

if TYPE_CHECKING:
    from zoo.predictors.base import Predictor


class EvenSubset(Subset):
    """Evenly spaced `val` images of a source; the other splits are empty.

    Args:
        source: source of the images.
        count: maximum number of images.
    """

    others = False

    def __init__(self, source: Source, count: int) -> None:
        super().__init__(source, "val", evenly_spaced(source.ids("val"), count))


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
        images=len(excerpt.kept),
        available=len(source.ids("val")),
    )


def _check_sizes(predictor: Predictor, source: EvenSubset) -> None:
    sizes = {predictor.preprocessing.model_size(*source.read_image(id_).shape[:2]) for id_ in source.kept}
    if len(sizes) > 1:
        raise ZooError(
            f"the images of {source.spec} have {len(sizes)} sizes at the network, and torch.compile would "
            f"compile for each: see eager's mIoU and the agreement with it"
        )
