from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from zoo.data.folder import FolderSource
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError, ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.predictors.load import load_predictor
from zoo.serve.bench.accuracy import EvenSubset, measure_accuracy

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.data.source import Split


def test_an_excerpt_is_spread_evenly_over_val_and_has_no_other_split() -> None:
    source = ShapesSource()
    val = source.ids("val")
    excerpt = EvenSubset(source, 4)
    assert excerpt.ids("val") == tuple(val[len(val) // 8 :: len(val) // 4])
    assert excerpt.ids("train") == ()
    assert np.array_equal(excerpt.read_mask(excerpt.ids("val")[1]), source.read_mask(excerpt.ids("val")[1]))
    assert EvenSubset(source, 10_000).ids("val") == val


def test_the_accuracy_is_that_of_the_evaluation_of_the_same_images(shapes_bundle: Path) -> None:
    predictor = load_predictor(shapes_bundle)
    expected = evaluate(predictor, EvenSubset(ShapesSource(), 3))
    found = measure_accuracy(predictor, ShapesSource(), 3)
    assert (found.miou, found.pixel_accuracy) == (expected["miou"], expected["pixel_accuracy"])
    assert (found.images, found.available) == (3, 96)
    assert found.delta is None


def test_the_difference_is_to_eager_and_unknown_without_it(shapes_bundle: Path) -> None:
    accuracy = measure_accuracy(load_predictor(shapes_bundle), ShapesSource(), 1)
    assert accuracy.miou is not None
    assert accuracy.compared_with(accuracy.miou - 0.25).delta == pytest.approx(0.25)
    assert accuracy.compared_with(None).delta is None


def test_labels_of_other_classes_are_a_reason(tiny_bundle: Path) -> None:
    with pytest.raises(DatasetError, match="has the 7 classes background, disc"):
        measure_accuracy(load_predictor(tiny_bundle), ShapesSource(), 1)


def test_no_images_at_all_are_a_reason(shapes_bundle: Path) -> None:
    with pytest.raises(ZooError, match="not measured: --images 0"):
        measure_accuracy(load_predictor(shapes_bundle), ShapesSource(), 0)


def test_data_without_labels_are_a_reason(shapes_bundle: Path) -> None:
    class Unlabeled(ShapesSource):
        def ids(self, split: Split) -> tuple[str, ...]:
            return () if split == "val" else super().ids(split)

    with pytest.raises(DatasetError, match="has no masks in split val"):
        measure_accuracy(load_predictor(shapes_bundle), Unlabeled(), 4)


def test_images_of_many_sizes_are_not_compiled_for(tiny_folder: Path, make_bundle, tmp_path: Path) -> None:
    source = FolderSource(str(tiny_folder))
    bundle = make_bundle(tmp_path / "bundle", num_classes=len(source.classes.names))
    compiled = load_predictor(bundle, backend="compile")

    class Odd(FolderSource):
        def read_image(self, id_: str) -> np.ndarray:
            image = super().read_image(id_)
            return image[: 20 + 4 * self.ids("val").index(id_)]

    with pytest.raises(ZooError, match=r"have 2 sizes at the network, and torch.compile would compile"):
        measure_accuracy(compiled, Odd(str(tiny_folder)), 8)
