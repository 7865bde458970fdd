from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from zoo.errors import InvalidImageError
from zoo.preprocess import Preprocessing, check_image, normalize, resize_image, resize_mask

if TYPE_CHECKING:
    from zoo.preprocess import Resize


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        ("fit", (1000, 2000), (256, 512)),
        ("fit", (2000, 1000), (512, 256)),
        ("fit", (100, 100), (512, 512)),
        ("fit", (512, 512), (512, 512)),
        ("fit", (333, 500), (341, 512)),
        ("fit", (1, 5000), (1, 512)),
        ("stretch", (333, 500), (512, 512)),
        ("none", (333, 500), (333, 500)),
    ],
)
def test_the_size_at_which_the_network_sees_an_image(
    resize: Resize, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Preprocessing(imgsz=(512, 512), resize=resize).model_size(*size) == expected


def test_fit_stays_inside_a_crop_that_is_not_square() -> None:
    preprocessing = Preprocessing(imgsz=(512, 1024))
    assert preprocessing.model_size(1024, 2048) == (512, 1024)
    assert preprocessing.model_size(1000, 1000) == (512, 512)


def test_normalizing_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    preprocessing = Preprocessing(imgsz=(2, 2), mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    got = normalize(images, preprocessing)
    torch.testing.assert_close(got.flatten(), torch.tensor([-1.0, 0.2, 0.0]))
    assert got.dtype == torch.float32


def test_normalizing_by_default_uses_the_statistics_of_imagenet() -> None:
    images = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    mean = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    expected = (images.numpy() / 255 - mean) / std
    got = normalize(images, Preprocessing(imgsz=(4, 5))).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_normalizing_treats_bytes_and_floats_alike() -> None:
    images = torch.randint(256, (1, 3, 4, 4), dtype=torch.uint8)
    preprocessing = Preprocessing(imgsz=(4, 4))
    assert torch.equal(normalize(images, preprocessing), normalize(images.float(), preprocessing))


def test_a_shrunk_image_averages_its_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2, ::2] = 200
    shrunk = resize_image(image, (1, 1))
    assert shrunk.shape == (1, 1, 3)
    assert abs(int(shrunk[0, 0, 0]) - 50) < 5


def test_a_resized_image_keeps_height_and_width_apart() -> None:
    assert resize_image(np.zeros((10, 20, 3), np.uint8), (5, 40)).shape == (5, 40, 3)


def test_a_resized_mask_holds_only_labels_that_were_there() -> None:
    mask = np.array([[0, 7], [3, 255]], np.uint8)
    resized = resize_mask(mask, (4, 6))
    assert resized.tolist() == [[0, 0, 0, 7, 7, 7]] * 2 + [[3, 3, 3, 255, 255, 255]] * 2


def test_what_has_the_size_already_is_returned_as_it_is() -> None:
    image, mask = np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint8)
    assert resize_image(image, (3, 4)) is image
    assert resize_mask(mask, (3, 4)) is mask


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["gray", "with alpha", "a batch", "float"],
)
def test_what_is_not_one_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InvalidImageError, match=r"expected \(height, width, 3\) uint8"):
        check_image(image)


def test_an_rgb_image_is_accepted() -> None:
    check_image(np.zeros((4, 4, 3), np.uint8))


def test_an_unknown_way_to_resize_is_refused() -> None:
    with pytest.raises(ValidationError, match="resize"):
        Preprocessing.model_validate({"imgsz": (4, 4), "resize": "crop"})


def test_a_tall_image_is_resized_the_horizontal_axis_first_by_every_version_of_pillow() -> None:
    """Pillow 13 begins with the vertical axis of such an image, which rounds some values differently."""
    image = np.random.default_rng(0).integers(0, 256, (1204, 218, 3), np.uint8)
    between = Image.fromarray(image).resize((17, 1204), Image.Resampling.BILINEAR)
    expected = np.asarray(between.resize((17, 96), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_image(image, (96, 17)), expected)


def test_a_pixel_between_two_pixels_of_a_mask_takes_the_second_one() -> None:
    mask = np.arange(96, dtype=np.uint8).reshape(1, 96)
    got = resize_mask(mask, (1, 40))[0]  # steps of 2.4 pixels: each fifth center is between two
    assert got.tolist() == [(2 * place + 1) * 96 // 80 for place in range(40)]
    assert got[2] == 6


def test_half_a_pixel_is_rounded_to_the_even_size_whatever_the_scale() -> None:
    preprocessing = Preprocessing(imgsz=(96, 96))
    assert preprocessing.model_size(704, 55) == (96, 8)  # 7.5; 55 times 96 / 704 in float64 is less
    assert preprocessing.model_size(704, 187) == (96, 26)  # 25.5
    assert preprocessing.model_size(10, 64 * 12) == (1, 96)  # 1.25
