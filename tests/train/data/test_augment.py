from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo.classes import IGNORE
from zoo.preprocess import Preprocessing, resize_image, resize_mask, resized_size
from zoo.train.data.augment import ColorJitter, strong_view, weak_view
from zoo.train.data.fast_transforms import Box, adjust_hue, image_part
from zoo.train.recipe.schema import AugmentConfig

NOTHING = {"scale": (1.0, 1.0), "flip": 0.0, "jitter": (0.0, 0.0, 0.0, 0.0), "grayscale": 0.0}


def config(**changes: Any) -> AugmentConfig:
    return AugmentConfig(**(NOTHING | changes))


def scene(height: int, width: int, cell: int = 8) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Return an image of large cells and a mask: 1 where the image is white, 0 where it is black."""
    cells = torch.randint(2, (-(-height // cell), -(-width // cell)), dtype=torch.uint8)
    mask = cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
    return tv_tensors.Image((255 * mask).expand(3, -1, -1).clone()), tv_tensors.Mask(mask)


def seen(imgsz: tuple[int, int], resize: Any, **changes: Any) -> Preprocessing:
    return Preprocessing(imgsz=imgsz, resize=resize, **changes)


def is_padding(image: Tensor, color: tuple[int, int, int] = (124, 116, 104)) -> Tensor:
    return (image == torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)).all(dim=0)


@pytest.mark.parametrize("seed", range(5))
def test_without_jitter_the_strong_view_is_the_weak_one(seed: int) -> None:
    torch.manual_seed(seed)
    weak, *_ = weak_view(seen((32, 32), "fit"), config(scale=(0.5, 2.0), flip=0.5))(*scene(40, 60))
    assert torch.equal(strong_view(config(jitter_probability=1.0))(weak), weak)


def test_the_strong_view_moves_no_edge() -> None:
    image, mask = scene(64, 64)
    strong = strong_view(AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.5))
    for _ in range(10):
        view = strong(image).float().mean(dim=0)
        assert view.shape == (64, 64)
        white, black = view[mask == 1], view[mask == 0]
        assert white.unique().numel() == black.unique().numel() == 1
        assert white[0] > black[0]


def test_the_strong_view_leaves_the_weak_one_as_it_was() -> None:
    weak, *_ = weak_view(seen((32, 32), "fit"), AugmentConfig())(*scene(40, 60))
    before = weak.clone()
    strong = strong_view(AugmentConfig(grayscale=1.0))(weak)
    assert torch.equal(weak, before)
    assert not torch.equal(strong, before)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_probabilities_of_zero_and_one_are_never_and_always(probability: float) -> None:
    torch.manual_seed(0)
    colored = tv_tensors.Image(torch.randint(256, (3, 8, 8), dtype=torch.uint8))
    gray = strong_view(config(grayscale=probability))
    jitter = strong_view(config(jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=probability))
    flip = weak_view(seen((8, 8), "none"), config(flip=probability))
    for _ in range(5):
        assert bool((gray(colored) == gray(colored)[:1]).all()) == probability
        assert torch.equal(jitter(colored), colored) != probability
        assert torch.equal(flip(colored)[0], colored.flip(-1)) == probability


@pytest.mark.parametrize("resize", ["fit", "stretch", "none"])
@pytest.mark.parametrize("size", [(40, 60), (90, 50), (33, 31)])
def test_image_and_mask_undergo_the_same_geometry(size: tuple[int, int], resize: Any) -> None:
    torch.manual_seed(0)
    weak = weak_view(seen((48, 48), resize), AugmentConfig(scale=(0.5, 2.0), flip=0.5))
    for _ in range(10):
        image, mask, _ = weak(*scene(*size, cell=10))
        inside = mask != IGNORE
        clear = inside & ((image[0] < 64) | (image[0] > 191))  # away from blurred edges
        assert clear.sum() > 0.5 * inside.sum()
        wrong = clear & ((image[0] > 127) != (mask == 1))
        assert wrong.sum() <= 0.01 * clear.sum()


@pytest.mark.parametrize("resize", ["fit", "stretch", "none"])
@pytest.mark.parametrize("size", [(20, 12), (12, 20), (64, 100), (100, 64), (48, 20), (32, 32)])
def test_the_view_has_the_size_of_the_crop(size: tuple[int, int], resize: Any) -> None:
    weak = weak_view(seen((32, 48), resize), AugmentConfig())
    for _ in range(5):
        image, mask, _ = weak(*scene(*size))
        assert image.shape == (3, 32, 48)
        assert mask.shape == (32, 48)


@pytest.mark.parametrize("size", [(20, 12), (12, 20), (100, 12), (12, 100)])
def test_padding_is_unknown_and_nothing_else_is(size: tuple[int, int]) -> None:
    weak = weak_view(seen((32, 48), "none"), config(flip=0.5))
    for _ in range(5):
        image, mask, _ = weak(*scene(*size))
        assert torch.equal(mask == IGNORE, is_padding(image))
        assert (mask != IGNORE).sum() == min(size[0], 32) * min(size[1], 48)


def test_an_image_that_fills_the_crop_is_not_padded() -> None:
    weak = weak_view(seen((32, 48), "none"), config(flip=0.5))
    for _ in range(10):
        assert (weak(*scene(60, 50))[1] != IGNORE).all()


@pytest.mark.parametrize("size", [(40, 60), (90, 50), (20, 20)])
@pytest.mark.parametrize("resize", ["fit", "stretch", "none"])
def test_without_augmentation_the_network_sees_what_it_sees_in_production(
    size: tuple[int, int], resize: Any
) -> None:
    torch.manual_seed(0)
    picture, mask = scene(*size)
    expected = resized_size(size, (48, 48), resize)
    crop = tuple(map(max, expected, (48, 48))) if resize == "none" else (48, 48)
    got, got_mask, _ = weak_view(seen(crop, resize), config())(picture, mask)
    inside = got_mask != IGNORE
    assert inside.sum() == expected[0] * expected[1]
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    production = torch.tensor(resize_image(picture.permute(1, 2, 0).numpy(), expected)).permute(2, 0, 1)
    assert (got[:, *box].int() - production.int()).abs().max() <= 2
    assert (got_mask[box] != torch.tensor(resize_mask(mask.numpy(), expected))).float().mean() < 0.05


def test_the_scale_is_drawn_from_its_range() -> None:
    weak = weak_view(seen((64, 64), "none"), config(scale=(0.5, 1.0)))
    areas = [(weak(*scene(64, 64))[1] != IGNORE).sum().item() for _ in range(60)]
    sides = torch.tensor(areas).sqrt()
    assert sides.min() >= 32
    assert sides.max() <= 64
    assert sides.min() < 38
    assert sides.max() > 58


def test_a_blur_smooths_an_edge_and_keeps_the_mean() -> None:
    image = tv_tensors.Image(torch.zeros(3, 33, 33, dtype=torch.uint8))
    image[:, :, 16:] = 200
    blurred = strong_view(config(blur=1.0, blur_sigma=(2.0, 2.0)))(image).float()
    profile = blurred[0, 16]
    assert bool((profile.diff() >= 0).all())
    assert profile[16] - profile[15] == pytest.approx(200 * 0.197, abs=2)  # the normal density at the edge
    assert blurred.mean() == pytest.approx(image.float().mean().item(), abs=1)
    assert profile[2] == 0
    assert profile[-3] == 200


def test_without_blur_the_strong_views_of_other_recipes_are_as_before() -> None:
    image, _ = scene(40, 60)
    settings = {"jitter": (0.4, 0.4, 0.4, 0.1), "grayscale": 0.5}
    for seed in range(3):
        views = []
        for sigma in ((0.1, 2.0), (1.0, 3.0)):
            torch.manual_seed(seed)
            views.append(strong_view(config(**settings, blur_sigma=sigma))(image))
        assert torch.equal(*views)


def test_a_tiny_image_keeps_a_pixel() -> None:
    _, mask, _ = weak_view(seen((8, 8), "none"), config(scale=(0.1, 0.1)))(*scene(1, 3))
    assert (mask != IGNORE).sum() == 1


def test_labels_beyond_the_classes_of_an_image_are_kept() -> None:
    mask = tv_tensors.Mask(torch.tensor([[0, 7], [IGNORE, 254]], dtype=torch.uint8).repeat(8, 8))
    _, got, _ = weak_view(seen((16, 16), "none"), AugmentConfig())(
        tv_tensors.Image(torch.zeros(3, 16, 16)), mask
    )
    assert set(got.unique().tolist()) <= {0, 7, 254, IGNORE}


def test_views_are_the_same_under_a_seed() -> None:
    image, mask = scene(40, 60)
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        weak, label, _ = weak_view(seen((32, 32), "fit"), AugmentConfig())(image, mask)
        views.append((weak, label, strong_view(AugmentConfig())(weak)))
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": 1.5},
        {"grayscale": -0.1},
        {"jitter_probability": 2},
        {"blur": 1.5},
        {"blur_sigma": (0.0, 1.0)},
        {"blurr": 1},
        {"scale": (0.0, 1.0)},
        {"jitter": (-0.1, 0, 0, 0)},
        {"jitter": (0.1, 0.1, 0.1, 0.6)},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        AugmentConfig(**settings)


@pytest.mark.parametrize("resize", ["fit", "stretch", "none"])
@pytest.mark.parametrize("size", [(200, 90), (31, 140), (48, 64), (20, 12)])
def test_the_view_is_that_of_torchvisions_transforms_bit_by_bit(size: tuple[int, int], resize: Any) -> None:
    """The whole image is scaled, padded, cropped and flipped; that only the crop is made must not show."""
    imgsz, settings = (48, 64), config(scale=(0.3, 2.5), flip=0.5)
    fill = {tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: IGNORE}
    crop = v2.RandomCrop(imgsz, pad_if_needed=True, fill=fill)
    picture = tv_tensors.Image(torch.randint(256, (*size, 3), dtype=torch.uint8).permute(2, 0, 1))
    mask = tv_tensors.Mask(torch.randint(20, size, dtype=torch.uint8))
    for seed in range(12):
        torch.manual_seed(seed)
        view, label, _ = weak_view(seen(imgsz, resize), settings)(picture, mask)
        after = torch.rand(())
        torch.manual_seed(seed)
        factor = 0.3 + (2.5 - 0.3) * torch.rand(()).item()
        scaled = [max(1, round(side * factor)) for side in resized_size(size, imgsz, resize)]
        exact = v2.InterpolationMode.NEAREST_EXACT
        whole = v2.functional.resize(picture.contiguous(), scaled, antialias=True)
        labels = v2.functional.resize_image(mask.as_subclass(Tensor)[None], scaled, exact)[0]
        padded = crop(tv_tensors.Image(whole), tv_tensors.Mask(labels))
        expected = v2.RandomHorizontalFlip(0.5)(*padded)
        assert torch.equal(after, torch.rand(()))
        assert torch.equal(view, expected[0])
        assert torch.equal(label, expected[1])
        assert view.is_contiguous()


def test_a_view_without_a_mask_tells_the_image_from_its_padding() -> None:
    for seed in range(5):
        views = []
        for mask in (None, torch.zeros(20, 90, dtype=torch.uint8)):
            torch.manual_seed(seed)
            views.append(weak_view(seen((32, 48), "none"), config(flip=0.5))(scene(20, 90)[0], mask))
        (image, label, valid), known = views
        assert torch.equal(image, known[0])
        assert torch.equal(valid, known[2])
        assert valid.sum() == 20 * 48
        assert (label == IGNORE).all()


def test_void_pixels_of_a_mask_are_no_padding() -> None:
    weak = weak_view(seen((32, 48), "none"), config(flip=0.5))
    image, mask = scene(20, 60)
    mask[:, ::3] = IGNORE
    for seed in range(5):
        torch.manual_seed(seed)
        view, label, valid = weak(image, mask)
        assert torch.equal(valid, ~is_padding(view))
        assert valid.sum() == 20 * 48
        assert (label[valid] == IGNORE).sum() == 20 * 16


@pytest.mark.parametrize("factor", [-0.5, -0.07, 0.0, 1 / 6, 0.1, 0.5])
def test_the_hue_is_changed_as_torchvision_does_bit_by_bit(factor: float) -> None:
    values = torch.tensor([*range(0, 256, 5), 1, 2, 127, 128, 129, 254], dtype=torch.uint8)
    colors = torch.cartesian_prod(values, values, values).T.reshape(3, len(values), -1)
    assert torch.equal(adjust_hue(colors, factor), v2.functional.adjust_hue_image(colors, factor))


def test_the_jitter_is_torchvisions_bit_by_bit() -> None:
    picture = tv_tensors.Image(torch.randint(256, (3, 40, 33), dtype=torch.uint8))
    for seed in range(12):
        torch.manual_seed(seed)
        got = ColorJitter(0.4, 0.4, 0.4, 0.1)(picture)
        torch.manual_seed(seed)
        assert torch.equal(got, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)(picture))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_part_of_a_resized_image_is_what_the_whole_shows_there(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        old, new = (torch.randint(1, 120, (2,), generator=random).tolist() for _ in range(2))
        image = torch.randint(256, (3, *old), generator=random).to(dtype)
        height, width = (int(torch.randint(1, side + 1, (), generator=random)) for side in new)
        top, left = new[0] - height, (new[1] - width) // 2
        whole = v2.functional.resize_image(image, new, antialias=True)
        part = image_part(image, tuple(new), Box(top, left, height, width))
        assert torch.equal(part, whole[:, top:, left : left + width])
