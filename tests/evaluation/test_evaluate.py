from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.evaluation.conftest import Noise
from zoo.classes import IGNORE, Classes
from zoo.data.source import Source, Split
from zoo.errors import DatasetError, ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.predictors.base import Predictor
from zoo.predictors.eager import load_eager
from zoo.preprocess import Preprocessing, resize_image, resize_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Masks = NDArray[np.uint8]


class Brightness(Predictor):
    """Gives class 1 where the red channel is bright; its windows are 6 x 4."""

    backend = "brightness"

    def __init__(self, *, with_logits: bool = True) -> None:
        super().__init__(Classes.of(("dark", "bright")), Preprocessing(imgsz=(6, 4), resize="none"))
        self.with_logits = with_logits

    @property
    def available(self) -> tuple[str, ...]:
        return ("mask", "logits") if self.with_logits else ("mask",)

    def infer(self, images: Images, outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        red = images[..., 0].astype(np.float32) - 127.5
        found = {"mask": (images[..., 0] >= 128).astype(np.uint8), "logits": np.stack([-red, red], axis=1)}
        return {name: found[name] for name in outputs}


class Checkers(Source):
    """Images whose red channel is their mask."""

    def __init__(self) -> None:
        super().__init__("checkers", Classes.of(("dark", "bright")))

    def ids(self, split: Split) -> tuple[str, ...]:
        return ("0", "1") if split == "val" else ()

    def read_image(self, id_: str) -> Images:
        return np.repeat(self.read_mask(id_)[..., None] * np.uint8(255), 3, axis=2)

    def read_mask(self, id_: str) -> Masks:
        size = (9 + int(id_), 12)
        return (np.indices(size).sum(axis=0) % 2).astype(np.uint8)


@pytest.fixture
def names(tiny_bundle: Path) -> tuple[str, ...]:
    return load_eager(tiny_bundle).classes.names


def test_the_whole_protocol_scores_at_the_size_of_the_mask(tiny_bundle: Path, names: tuple[str, ...]) -> None:
    predictor, source = load_eager(tiny_bundle), Noise(names)
    right = counted = 0
    for id_ in source.ids("val"):
        image, mask = source.read_image(id_), source.read_mask(id_)
        resized = resize_image(image, predictor.preprocessing.model_size(*mask.shape))
        prediction = resize_mask(predictor.run(resized[None])[0], (mask.shape[0], mask.shape[1]))
        for label, predicted in zip(mask.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            counted += label != IGNORE
            right += label == predicted
    found = evaluate(predictor, source)
    assert found["pixel_accuracy"] == pytest.approx(right / counted, rel=1e-6)
    assert found["images"] == 3


def test_the_result_says_what_was_measured_how_and_is_json() -> None:
    found = evaluate(Brightness(), Checkers())
    assert json.loads(json.dumps(found)) == {
        "miou": 1.0,
        "pixel_accuracy": 1.0,
        "iou": {"dark": 1.0, "bright": 1.0},
        "images": 2,
        "data": "checkers",
        "split": "val",
        "protocol": "whole",
        "backend": "brightness",
        "runtime": "brightness",
    }


def test_progress_is_told_after_every_image() -> None:
    calls: list[tuple[int, int]] = []
    evaluate(Brightness(), Checkers(), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_the_slide_protocol_is_right_on_a_predictor_without_context() -> None:
    assert evaluate(Brightness(), Checkers(), protocol="slide")["miou"] == 1.0


def test_the_slide_protocol_needs_logits() -> None:
    with pytest.raises(ZooError, match=r"only masks: evaluate the bundle .* --output logits"):
        evaluate(Brightness(with_logits=False), Checkers(), protocol="slide")


def test_a_split_without_masks_is_an_error() -> None:
    with pytest.raises(DatasetError, match="checkers has no masks in split train: use --split"):
        evaluate(Brightness(), Checkers(), "train")


def test_classes_in_another_order_are_an_error() -> None:
    source = Checkers()
    source.classes = Classes.of(("bright", "dark"))
    with pytest.raises(DatasetError, match=r"bright, dark, expected the model's 2 \(dark, bright\)"):
        evaluate(Brightness(), source)


def test_a_mask_of_another_size_than_its_image_is_an_error() -> None:
    class Cropped(Checkers):
        def read_image(self, id_: str) -> Images:
            return super().read_image(id_)[:-1]

    with pytest.raises(DatasetError, match="0 in checkers has an image of 12x8 pixels and a mask of 12x9"):
        evaluate(Brightness(), Cropped())


def test_a_label_beyond_the_classes_is_an_error(tiny_bundle: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError, match=r"the mask of 0 in noise has label \d+, expected 0..6 or 255"):
        evaluate(load_eager(tiny_bundle), Noise(names, highest=200))
