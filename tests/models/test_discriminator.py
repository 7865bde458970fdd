from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from zoo.errors import RecipeError
from zoo.models.discriminator import Discriminator, DiscriminatorConfig, pair


def build(level: str = "patch", classes: int = 2, **changes: Any) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(classes, DiscriminatorConfig.model_validate({"level": level, "width": 2} | changes))


@pytest.mark.parametrize("level", ["image", "patch", "pixel"])
@pytest.mark.parametrize("size", [(321, 321), (512, 512), (256, 512)])
def test_the_matching_feature_has_512_entries_for_any_crop(level: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):  # shapes alone
        judged = Discriminator(2, DiscriminatorConfig(level=level))(torch.empty(2, 5, *size))
    assert judged.features.shape == (2, 512)


@pytest.mark.parametrize(
    ("level", "size", "grid"),
    [
        ("image", (321, 321), (1, 1)),
        ("image", (256, 512), (1, 1)),
        ("patch", (512, 512), (3, 3)),
        ("patch", (800, 800), (5, 5)),
        ("patch", (321, 321), (2, 2)),
        ("patch", (256, 512), (1, 3)),
        ("patch", (64, 480), (1, 3)),
        ("patch", (96, 96), (1, 1)),
        ("pixel", (321, 321), (321, 321)),
        ("pixel", (256, 512), (256, 512)),
    ],
)
def test_each_level_scores_its_own_parts_of_the_image(
    level: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert build(level).eval()(torch.zeros(1, 5, *size)).score.shape == (1, *grid)


def test_a_patch_decides_on_its_cells_alone() -> None:
    discriminator = build("patch", cell=2).eval()
    pairs = torch.randn(1, 5, 160, 160, requires_grad=True)  # 10 x 10 cells, 5 x 5 patches
    discriminator(pairs).score[0, 0, 4].backward()
    assert pairs.grad is not None
    seen = pairs.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = (seen.any(dim=dim).nonzero().flatten() for dim in (1, 0))
    assert (rows.min(), columns.max()) == (0, 159)
    # two cells of 16 pixels, each seeing 46 pixels: 15 beyond its own on either side
    assert rows.max() == 31 + 15
    assert columns.min() == 128 - 15


def test_a_grid_smaller_than_a_patch_is_one_patch_under_a_smaller_kernel() -> None:
    discriminator = build("patch", cell=10).eval()
    pairs = torch.randn(2, 5, 64, 96)  # 4 x 6 cells
    grid = discriminator.body(pairs)
    kernel = discriminator.head.weight[0, :, :4, :6]
    expected = (grid * kernel).sum(dim=(1, 2, 3)) + discriminator.head.bias
    torch.testing.assert_close(discriminator(pairs).score.flatten(), expected)


@pytest.mark.parametrize("level", ["image", "patch", "pixel"])
def test_the_features_are_the_mean_over_the_whole_image(level: str) -> None:
    discriminator = build(level).eval()
    pairs = torch.randn(2, 5, 96, 64)
    expected = discriminator.body(pairs).mean(dim=(2, 3))
    torch.testing.assert_close(discriminator(pairs).features, expected)


def test_the_score_of_an_image_follows_from_its_features() -> None:
    discriminator = build("image").eval()
    score, features, _ = discriminator(torch.randn(2, 5, 64, 64))
    expected = features @ discriminator.head.weight.flatten() + discriminator.head.bias
    torch.testing.assert_close(score.flatten(), expected)


def test_scores_are_logits() -> None:
    discriminator = build("image").eval()
    with torch.no_grad():
        discriminator.head.bias.fill_(-7)
    assert (discriminator(torch.randn(2, 5, 64, 64)).score < -1).all()


def test_channels_are_dropped_after_each_convolution_but_the_fourth() -> None:
    layers = list(build(dropout=0.3).body)
    dropped = [layer for layer in layers if isinstance(layer, nn.Dropout2d)]
    assert [layer.p for layer in dropped] == [0.3] * 3
    assert not isinstance(layers[-1], nn.Dropout2d)


def test_it_has_the_number_of_parameters_that_the_papers_have() -> None:
    with torch.device("meta"):
        discriminator = Discriminator(21, DiscriminatorConfig(level="image"))
    widths = [(24, 64), (64, 128), (128, 256), (256, 512)]
    expected = sum(16 * before * after + after for before, after in widths) + 512 + 1
    assert sum(p.numel() for p in discriminator.parameters()) == expected
    assert expected == pytest.approx(2.78e6, rel=2e-3)  # methods.md D1


def test_a_pair_is_the_scores_and_then_the_image() -> None:
    scores, images = torch.rand(2, 4, 3, 3), torch.rand(2, 3, 3, 3)
    joined = pair(scores, images, torch.ones(2, 3, 3, dtype=torch.bool))
    assert torch.equal(joined[:, :4], scores)
    assert torch.equal(joined[:, 4:], images)


def test_a_pair_of_either_kind_is_zero_in_padding() -> None:
    valid = torch.rand(2, 3, 3) < 0.5
    joined = pair(torch.rand(2, 4, 3, 3), torch.rand(2, 3, 3, 3), valid)
    assert torch.equal(joined.any(dim=1), valid)


def test_padding_is_in_no_mean_feature() -> None:
    discriminator = build("image").eval()
    pairs, valid = torch.randn(1, 5, 64, 96), torch.ones(1, 64, 96, dtype=torch.bool)
    valid[..., 40:] = False  # two cells of 16 pixels and half of the third are left of it
    grid = discriminator.body(pairs)
    expected = (grid[..., 0] + grid[..., 1] + grid[..., 2] / 2).sum(dim=2) / (4 * 2.5)
    torch.testing.assert_close(discriminator(pairs, valid).features, expected)


@pytest.mark.parametrize(
    ("level", "expected"), [("image", [1.0]), ("patch", [1.0, 0.25, 0.0]), ("pixel", [1.0, 0.0])]
)
def test_a_score_weighs_as_much_as_its_pixels_that_are_no_padding(level: str, expected: list[float]) -> None:
    valid = torch.ones(1, 32, 96, dtype=torch.bool)
    valid[..., 40:] = False
    judged = build(level, cell=2).eval()(torch.randn(1, 5, 32, 96), valid)
    assert judged.weight.shape == judged.score.shape
    assert judged.weight[0, 0].unique_consecutive().tolist() == expected
    whole = build(level, cell=2).eval()(torch.randn(1, 5, 32, 96))
    assert (whole.weight == 1).all()


@pytest.mark.parametrize("size", [(16, 64), (64, 31)])
def test_images_that_are_too_small_are_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=rf"data\.imgsz is \[{size[0]}, {size[1]}\], expected at least 32"):
        build()(torch.zeros(1, 5, *size))
