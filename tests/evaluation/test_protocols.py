"""Each protocol beside a slow literal oracle that is written from its definition."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from zoo.catalog import reported_protocols
from zoo.classes import IGNORE, Classes
from zoo.errors import ZooError
from zoo.evaluation.protocols import (
    ABOUT,
    COMMON,
    PROTOCOLS,
    SCALES,
    SlidingWindows,
    softmax,
    users,
    window_starts,
)
from zoo.predictors.base import Predictor
from zoo.predictors.eager import load_eager
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Masks = NDArray[np.uint8]
    Scores = NDArray[np.float64]

SIZES = [(64, 64), (110, 90), (40, 130), (30, 20)]
NEARLY = 0.999
"""Share of pixels that must agree where float32 sums are compared with float64 ones."""


@pytest.fixture
def eager(tiny_bundle: Path) -> Predictor:
    return load_eager(tiny_bundle)


@pytest.fixture(params=SIZES, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Images, Masks]:
    """Return an image and a label of one size; the image is smooth, so that a resize leaves something."""
    height, width = request.param
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (6, 5, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    label = random.integers(0, 7, (height, width), np.uint8)
    label[:3] = IGNORE
    return image, label


def scored(name: str, predictor: Predictor, pair: tuple[Images, Masks]) -> tuple[Masks, Masks]:
    label, prediction = PROTOCOLS[name].score(predictor, *pair)
    assert label.shape == prediction.shape
    assert label.dtype == prediction.dtype == np.uint8
    return label, prediction


def resized(array: NDArray[np.uint8], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), how))


def logits_of(predictor: Predictor, image: Images) -> Scores:
    logits = predictor.logits(image[None])
    assert logits is not None
    return logits[0].astype(np.float64)


def enlarged(logits: Scores, size: tuple[int, int]) -> Scores:
    tensor = torch.from_numpy(logits)[None]
    return functional.interpolate(tensor, size=size, mode="bilinear", align_corners=True)[0].numpy()


def literal_softmax(logits: Scores) -> Scores:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def placed(image: Images, label: Masks, size: tuple[int, int], pad_label: int) -> tuple[Images, Masks]:
    """Return the middle of an image in a frame, pixel by pixel."""
    frame, expected = np.zeros((*size, 3), np.uint8), np.full(size, pad_label, np.uint8)
    frame[:] = [round(mean * 255) for mean in Preprocessing(imgsz=size).mean]
    top, left = (math.trunc((length - side) / 2) for length, side in zip(label.shape, size, strict=True))
    for y in range(size[0]):
        for x in range(size[1]):
            if 0 <= y + top < label.shape[0] and 0 <= x + left < label.shape[1]:
                frame[y, x], expected[y, x] = image[y + top, x + left], label[y + top, x + left]
    return frame, expected


def literal_slide(predictor: Predictor, image: Images, *, probabilities: bool) -> Scores:
    """Return the sum over windows, window by window and pixel by pixel, in float64."""
    crop_height, crop_width = predictor.preprocessing.imgsz
    height, width = max(image.shape[0], crop_height), max(image.shape[1], crop_width)
    padded = np.zeros((height, width, 3), np.uint8)
    padded[:] = [round(mean * 255) for mean in predictor.preprocessing.mean]
    padded[: image.shape[0], : image.shape[1]] = image
    total = np.zeros((len(predictor.classes), height, width))
    top = 0
    while True:
        top = min(top, height - crop_height)
        left = 0
        while True:
            left = min(left, width - crop_width)
            logits = logits_of(predictor, padded[top : top + crop_height, left : left + crop_width])
            added = literal_softmax(logits) if probabilities else logits
            total[:, top : top + crop_height, left : left + crop_width] += added
            if left + crop_width == width:
                break
            left += math.ceil(crop_width * 2 / 3)
        if top + crop_height == height:
            break
        top += math.ceil(crop_height * 2 / 3)
    return total[:, : image.shape[0], : image.shape[1]]


def test_original_is_one_pass_at_the_images_own_size(eager: Predictor, pair: tuple[Images, Masks]) -> None:
    label, prediction = scored("original", eager, pair)
    assert np.array_equal(label, pair[1])
    assert np.array_equal(prediction, eager.run(pair[0][None])[0])


@pytest.mark.parametrize(("name", "probabilities"), [("slide", True), ("slide-logits", False)])
def test_slide_equals_literal_loops_over_windows(
    eager: Predictor, pair: tuple[Images, Masks], name: str, probabilities: bool
) -> None:
    expected = literal_slide(eager, pair[0], probabilities=probabilities)
    protocol = PROTOCOLS[name]
    assert isinstance(protocol, SlidingWindows)
    assert protocol.scores(eager, pair[0]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    label, prediction = scored(name, eager, pair)
    assert np.array_equal(label, pair[1])
    assert np.mean(prediction == expected.argmax(axis=0)) > NEARLY


def test_resize_squeezes_image_and_label(eager: Predictor, pair: tuple[Images, Masks]) -> None:
    size = eager.preprocessing.imgsz
    label, prediction = scored("resize", eager, pair)
    assert np.array_equal(label, resized(pair[1], size, Image.Resampling.NEAREST))
    image = resized(pair[0], size, Image.Resampling.BILINEAR)
    assert np.array_equal(prediction, eager.run(image[None])[0])
    label, prediction = scored("resize-original", eager, pair)
    assert np.array_equal(label, pair[1])
    expected = enlarged(logits_of(eager, image), pair[1].shape).argmax(axis=0)  # type: ignore[arg-type]
    assert np.mean(prediction == expected) > NEARLY


@pytest.mark.parametrize(("name", "pad_label"), [("center-crop", IGNORE), ("center-crop-background", 0)])
def test_center_crop_is_the_middle(
    eager: Predictor, pair: tuple[Images, Masks], name: str, pad_label: int
) -> None:
    image, expected = placed(*pair, eager.preprocessing.imgsz, pad_label)
    label, prediction = scored(name, eager, pair)
    assert np.array_equal(label, expected)
    assert np.array_equal(prediction, eager.run(image[None])[0])


def test_short_side_crop_scales_first_and_never_pads(eager: Predictor, pair: tuple[Images, Masks]) -> None:
    size = eager.preprocessing.imgsz
    height, width = pair[1].shape
    scale = max(size[0] / height, size[1] / width)
    between = round(height * scale), round(width * scale)
    image = resized(pair[0], between, Image.Resampling.BILINEAR)
    image, expected = placed(image, resized(pair[1], between, Image.Resampling.NEAREST), size, 77)
    assert 77 not in expected
    label, prediction = scored("short-side-crop", eager, pair)
    assert np.array_equal(label, expected)
    assert np.array_equal(prediction, eager.run(image[None])[0])


def test_padding_is_cut_off_again(eager: Predictor, pair: tuple[Images, Masks]) -> None:
    height, width = pair[1].shape
    size = eager.preprocessing.imgsz
    frame = np.zeros((max(height, size[0]), max(width, size[1]), 3), np.uint8)
    frame[:] = [round(mean * 255) for mean in eager.preprocessing.mean]
    frame[:height, :width] = pair[0]
    label, prediction = scored("padded", eager, pair)
    assert np.array_equal(label, pair[1])
    assert np.array_equal(prediction, eager.run(frame[None])[0][:height, :width])


def test_half_scores_a_half_label(eager: Predictor, pair: tuple[Images, Masks]) -> None:
    size = pair[1].shape[0] // 2, pair[1].shape[1] // 2
    label, prediction = scored("half", eager, pair)
    assert np.array_equal(label, resized(pair[1], size, Image.Resampling.NEAREST))
    image = resized(pair[0], size, Image.Resampling.BILINEAR)
    assert np.array_equal(prediction, eager.run(image[None])[0])


def test_multi_scale_sums_probabilities_of_scales_and_mirror_images(
    eager: Predictor, pair: tuple[Images, Masks]
) -> None:
    shape: tuple[int, int] = pair[1].shape  # type: ignore[assignment]
    size = eager.preprocessing.model_size(*shape)
    total = np.zeros((len(eager.classes), *shape))
    for scale in SCALES:
        image = resized(pair[0], (round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
        straight = enlarged(logits_of(eager, image), shape)
        mirrored = enlarged(logits_of(eager, np.ascontiguousarray(image[:, ::-1])), shape)[..., ::-1]
        total += literal_softmax(straight) + literal_softmax(mirrored)
    label, prediction = scored("multi-scale", eager, pair)
    assert np.array_equal(label, pair[1])
    assert np.mean(prediction == total.argmax(axis=0)) > NEARLY


class MasksOnly(Predictor):
    """An artifact that gives no logits."""

    backend = "masks"

    def __init__(self) -> None:
        super().__init__(Classes.of(("dark", "bright")), Preprocessing(imgsz=(6, 4), resize="none"))

    def infer(self, images: Images, outputs: Sequence[str] = ("mask",)) -> dict[str, NDArray[Any]]:
        assert outputs == ("mask",)
        return {"mask": (images[..., 0] >= 128).astype(np.uint8)}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_needs_logits_says_so_and_the_rest_does_without(name: str, pair: tuple[Images, Masks]) -> None:
    if name in ("slide", "slide-logits", "resize-original", "multi-scale"):
        with pytest.raises(ZooError, match=r"only masks: evaluate the bundle .* --output logits"):
            scored(name, MasksOnly(), pair)
    else:
        scored(name, MasksOnly(), pair)


def test_every_protocol_is_described_and_those_of_the_papers_exist() -> None:
    assert ABOUT.keys() == PROTOCOLS.keys()
    assert {*reported_protocols().values(), *COMMON.values()} <= PROTOCOLS.keys()
    assert users("slide-logits") == "rrn on cityscapes, rrn on voc, u2pl on cityscapes"
    assert users("whole") == ""


@pytest.mark.parametrize("length", range(6, 40))
def test_windows_cover_the_axis_and_stand_at_most_two_thirds_apart(length: int) -> None:
    starts = window_starts(length, 6)
    assert starts[0] == 0
    assert starts[-1] + 6 == length
    assert all(0 < after - before <= 4 for before, after in pairwise(starts))


def test_softmax_of_large_logits_is_finite() -> None:
    logits = np.array([[[1e4]], [[-1e4]], [[1e4]]], np.float32)
    assert softmax(logits).ravel().tolist() == [0.5, 0.0, 0.5]
