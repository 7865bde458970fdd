from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zoo.classes import IGNORE, Classes
from zoo.export.parity.accuracy import Accuracy, Change, LabeledImages, ReferenceMasks, changes, count, ious
from zoo.export.parity.tolerance import GATES
from zoo.predictors.base import Predictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NAMES = ("road", "sky", "pole")


def random_pairs(images: int, noise: float, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Return labels, a third of a row void, and masks of which some pixels are drawn anew."""
    random = np.random.default_rng(seed)
    labels = [random.integers(0, 3, (12, 10)).astype(np.uint8) for _ in range(images)]
    masks = []
    for label in labels:
        wrong = random.random(label.shape) < noise
        masks.append(np.where(wrong, random.integers(0, 3, label.shape), label).astype(np.uint8))
        label[0, :3] = IGNORE
    return labels, masks


def literal_iou(labels: list[Any], masks: list[Any], class_: int) -> float:
    both = either = 0
    for label, mask in zip(labels, masks, strict=True):
        for y in range(label.shape[0]):
            for x in range(label.shape[1]):
                if label[y, x] != IGNORE:
                    actual, predicted = label[y, x] == class_, mask[y, x] == class_
                    both += actual and predicted
                    either += actual or predicted
    return both / either


def counts(labels: list[Any], masks: list[Any]) -> NDArray[np.int64]:
    return np.stack([count(label, mask, 3) for label, mask in zip(labels, masks, strict=True)])


def test_counts_give_the_iou_of_literal_loops() -> None:
    labels, masks = random_pairs(4, 0.3)
    found = ious(np.ones((1, 4), np.int64), counts(labels, masks))[0]
    assert found == pytest.approx([literal_iou(labels, masks, class_) for class_ in range(3)], abs=1e-15)


def test_an_image_that_counts_twice_is_in_the_set_twice() -> None:
    labels, masks = random_pairs(3, 0.4)
    found = ious(np.array([[2, 0, 1]]), counts(labels, masks))[0]
    twice = [labels[0], labels[0], labels[2]], [masks[0], masks[0], masks[2]]
    assert found == pytest.approx([literal_iou(*twice, class_) for class_ in range(3)], abs=1e-15)


def test_equal_masks_change_nothing() -> None:
    labels, masks = random_pairs(5, 0.2)
    found = changes(NAMES, counts(labels, masks), counts(labels, masks))
    assert (found["miou"].low, found["miou"].high) == (0, 0)
    assert all(change.reference == change.artifact for change in found["classes"])


def test_the_interval_holds_the_change_and_narrows_with_more_images() -> None:
    widths = []
    for images in (8, 200):
        labels, better = random_pairs(images, 0.1)
        worse = [np.roll(mask, 1) if index % 2 else mask for index, mask in enumerate(better)]
        change = changes(NAMES, counts(labels, better), counts(labels, worse))["miou"]
        assert change.low < change.artifact - change.reference < change.high < 0
        widths.append(change.high - change.low)
    assert widths[1] < widths[0] / 3


def test_a_class_that_the_labels_do_not_show_has_no_change() -> None:
    label, mask = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    mask[0, 0] = 2
    found = changes(NAMES, count(label, label, 3)[None], count(label, mask, 3)[None])
    assert [change.name for change in found["classes"]] == ["road"]
    assert found["miou"].artifact == pytest.approx(15 / 16)


class Constant(Predictor):
    backend = "constant"

    def __init__(self, label: int) -> None:
        super().__init__(Classes.of(NAMES), Preprocessing(imgsz=(32, 32), resize="none"))
        self.label = label

    def infer(self, images: NDArray[np.uint8], outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert outputs == ("mask",)
        return {"mask": np.full(images.shape[:3], self.label, np.uint8)}


def test_the_judge_counts_labeled_pixels_alone() -> None:
    label = np.zeros((40, 30), np.uint8)
    label[:10] = IGNORE
    labeled = LabeledImages((np.zeros((40, 30, 3), np.uint8),), (label,), "one image")
    judge = ReferenceMasks(Constant(0), labeled)
    same, other = judge.judge(Constant(0)), judge.judge(Constant(1))
    assert (same.agreement, same.miou.reference, same.miou.artifact) == (1, 1, 1)
    assert (other.agreement, other.miou.artifact, other.low) == (0, 0, -1)
    assert [change.name for change in other.worse] == ["road"]


def accuracy(low: float, high: float) -> Accuracy:
    change = Change(name="mIoU", reference=0.7, artifact=0.7 + (low + high) / 2, low=low, high=high)
    return Accuracy(data="shapes", images=9, agreement=1, miou=change, classes=())


@pytest.mark.parametrize(
    ("low", "high", "allowed", "shown"),
    [(-0.004, 0.001, True, True), (-0.02, 0.001, True, False), (-0.02, -0.006, False, False)],
)
def test_a_drop_must_be_certain_to_fail_an_artifact(
    low: float, high: float, allowed: bool, shown: bool
) -> None:
    gate, found = GATES["int8"], accuracy(low, high)
    assert (gate.allows_drop(found), gate.is_shown(found)) == (allowed, shown)


def test_a_change_reads_in_points() -> None:
    assert str(accuracy(-0.02, 0.01).miou) == "-0.50 [-2.00, +1.00]"
