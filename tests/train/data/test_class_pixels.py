from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from zoo.classes import IGNORE, Classes
from zoo.data.partition import Partition
from zoo.data.source import Source, Split
from zoo.errors import RecipeError
from zoo.preprocess import Preprocessing
from zoo.train.data.augment import RARE_SHARE, WeakView
from zoo.train.data.class_pixels import (
    RareClasses,
    class_weights_of,
    count_pixels,
    effective_number,
    inverse,
    measured_weights,
    median_frequency,
)
from zoo.train.data.loaders import BatchStream
from zoo.train.method import Phase
from zoo.train.recipe.schema import AugmentConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.train.recipe.schema import Recipe

PIXELS = np.array([[600, 30, 0], [100, 0, 10], [50, 50, 0]])
"""Three images of three classes, the third in one alone."""


def literal(pixels: NDArray[np.int64], beta: float) -> dict[str, list[float]]:
    """The weights of the papers, one class at a time."""
    images, classes = pixels.shape
    of_class = [sum(int(pixels[i, c]) for i in range(images)) for c in range(classes)]
    frequency = []
    for c in range(classes):
        where = [i for i in range(images) if pixels[i, c] > 0]
        frequency.append(of_class[c] / sum(int(pixels[i].sum()) for i in where))
    median = sorted(frequency)[classes // 2]
    effective = [(1 - beta) / (1 - beta**n) for n in of_class]
    return {
        "inverse": [sum(of_class) / (classes * n) for n in of_class],
        "median_frequency": [median / f for f in frequency],
        "effective_number": [classes * e / sum(effective) for e in effective],
    }


def test_weights_are_those_of_their_papers() -> None:
    expected = literal(PIXELS, 0.99)
    assert inverse(PIXELS).tolist() == pytest.approx(expected["inverse"])
    assert median_frequency(PIXELS).tolist() == pytest.approx(expected["median_frequency"])
    assert effective_number(PIXELS, 0.99).tolist() == pytest.approx(expected["effective_number"])
    mean = PIXELS.sum() / 3
    own = literal(PIXELS, 1 - 1 / mean)["effective_number"]
    assert effective_number(PIXELS, None).tolist() == pytest.approx(own)


def test_at_beta_zero_all_weights_are_equal() -> None:
    assert effective_number(PIXELS, 0.0).tolist() == [1, 1, 1]


class Masks(Source):
    """Images of one color with these masks."""

    def __init__(self, masks: list[NDArray[np.uint8]], classes: int = 3) -> None:
        super().__init__("masks", Classes.of(tuple("abcdef"[:classes])))
        self.masks = masks

    def ids(self, split: Split) -> tuple[str, ...]:
        return tuple(map(str, range(len(self.masks)))) if split == "train" else ()

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return np.full((*self.masks[int(id_)].shape, 3), int(id_), np.uint8)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return self.masks[int(id_)]


def masks() -> list[NDArray[np.uint8]]:
    """Return twelve masks of 64 x 64 of class 0, the last with a spot of class 1; a row is unknown."""
    found = [np.zeros((64, 64), np.uint8) for _ in range(12)]
    found[11][40:56, 8:24] = 1
    for mask in found:
        mask[0] = IGNORE
    return found


@pytest.fixture
def recipe(load_tiny: Callable[..., Recipe]) -> Callable[..., Recipe]:
    return lambda **changes: load_tiny(changes)


def test_pixels_are_counted_by_image_and_the_unknown_ones_not_at_all() -> None:
    count = count_pixels(Masks(masks()), ("0", "11"))
    assert count.tolist() == [[63 * 64, 0, 0], [63 * 64 - 256, 256, 0]]


def test_a_class_without_a_labeled_pixel_has_no_part_in_the_weights(recipe: Any) -> None:
    weights = measured_weights(recipe(class_weights="inverse"), PIXELS * [1, 1, 0])
    assert weights[:2].tolist() == pytest.approx(inverse(PIXELS[:, :2]).tolist())
    assert weights[2] == 1


def test_weights_are_measured_on_the_labeled_images_alone_and_say_so(recipe: Any) -> None:
    source = Masks(masks())
    found = class_weights_of(recipe(class_weights="median_frequency"), source, ("10", "11"))
    assert found is not None
    assert found.source == "median_frequency, 2 labeled images"
    assert found.pixels == (2 * 63 * 64 - 256, 256, 0)
    assert str(found).startswith("median_frequency, 2 labeled images: a ")
    assert found.record()["classes"]["b"] == {"weight": found.values[1], "pixels": 256}
    listed = class_weights_of(recipe(class_weights=[1, 2, 0.5]), source, ("0",))
    assert listed is not None
    assert listed.values == (1, 2, 0.5)
    assert class_weights_of(recipe(), source, ("0",)) is None


@pytest.mark.parametrize("kind", ["inverse", "median_frequency", "effective_number"])
def test_masks_without_a_known_pixel_are_an_error_of_one_line(kind: str, recipe: Any) -> None:
    with pytest.raises(RecipeError, match=rf"class_weights {kind}: got 2 labeled images without") as caught:
        measured_weights(recipe(class_weights=kind), np.zeros((2, 3), np.int64))
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match=r"data\.rare_classes: got 2 labeled images without"):
        RareClasses(np.zeros((2, 3), np.int64), 0.01)


def test_a_class_is_drawn_by_the_formula_of_the_paper_and_from_the_images_that_show_it() -> None:
    rare = RareClasses(PIXELS, 0.5)
    share = PIXELS.sum(axis=0) / PIXELS.sum()
    weight = [np.exp((1 - f) / 0.5) for f in share]
    assert rare.probability.tolist() == pytest.approx([w / sum(weight) for w in weight])
    random = np.random.default_rng(0)
    drawn = [rare.draw(random) for _ in range(600)]
    assert all(PIXELS[image, label] > 0 for image, label in drawn)
    assert {image for image, label in drawn if label == 1} == {0, 2}
    often = np.bincount([label for _, label in drawn], minlength=3) / 600
    assert often.tolist() == pytest.approx(rare.probability.tolist(), abs=0.06)


def test_no_class_is_drawn_that_no_mask_shows() -> None:
    rare = RareClasses(PIXELS * [1, 0, 1], 0.01)
    assert rare.probability[1] == 0
    assert rare.probability.sum() == pytest.approx(1)


def stream_of(recipe: Recipe, **place: int) -> BatchStream:
    ids = tuple(map(str, range(12)))
    return BatchStream(
        recipe,
        Masks(masks()),
        Partition("12", 0, ids, ()),
        (Phase("alone", 40, labeled=2, unlabeled=0),),
        **place,
    )


SMALL = {"data.imgsz": [32, 32], "data.resize": "fit", "data.augment.scale": [2.0, 2.0], "data.batch_l": 4}


def shares(stream: BatchStream, numbers: range) -> list[float]:
    """Return how many of the first stream's crops show class 1, and how many of the second's."""
    labels = [stream[number].label_l.chunk(2) for number in numbers]
    first, second = (torch.cat(each) for each in zip(*labels, strict=True))
    return [(each == 1).flatten(1).any(dim=1).float().mean().item() for each in (first, second)]


def test_rare_classes_fill_the_share_of_labeled_crops_that_is_asked_for(recipe: Any) -> None:
    never = shares(stream_of(recipe(**SMALL)), range(10))
    always = shares(stream_of(recipe(**SMALL, **{"data.rare_classes": 1.0})), range(10))
    half = shares(stream_of(recipe(**SMALL, **{"data.rare_classes": 0.5})), range(10))
    assert never[0] < 0.1
    assert always[0] > 0.9
    assert 0.2 < half[0] < 0.8
    assert always[1] == half[1] == never[1]  # real pairs of a discriminator


def test_without_rare_classes_batches_are_those_of_before_and_with_them_do_not_depend_on_the_past(
    recipe: Any,
) -> None:
    plain, none = stream_of(recipe(**SMALL)), stream_of(recipe(**SMALL, **{"data.rare_classes": 1e-12}))
    assert all(torch.equal(plain[n].image_l, none[n].image_l) for n in range(3))
    rare = recipe(**SMALL, **{"data.rare_classes": 0.7})
    first, again = stream_of(rare), stream_of(rare)
    for number in range(4):
        first[number]
    assert torch.equal(first[4].label_l, again[4].label_l)


def test_a_crop_is_one_that_shows_the_class_wherever_ten_tries_find_one() -> None:
    view = WeakView(Preprocessing(imgsz=(32, 32), resize="fit"), AugmentConfig(scale=(4.0, 4.0)))
    image, mask = torch.zeros(3, 64, 64, dtype=torch.uint8), torch.from_numpy(masks()[11])

    def found(wanted: int | None) -> int:
        torch.manual_seed(0)
        return sum(int((view(image, mask, wanted)[1] == 1).sum() > RARE_SHARE * 32**2) for _ in range(40))

    assert found(None) < 12
    assert found(1) > 30
