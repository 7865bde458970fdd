from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zoo.bundle.weights import load_bundle
from zoo.errors import ExportError
from zoo.export.graph.fold import fuse_batch_norms, prepare
from zoo.models.config import NetworkConfig, StudentConfig
from zoo.models.deployable import Deployable

if TYPE_CHECKING:
    from pathlib import Path


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def warmed_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert values is not None
            values.uniform_(0.5, 2)
    return norm.eval()


class Tiny(Deployable):
    config = StudentConfig(network=NetworkConfig(num_classes=4))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = warmed_norm(4)

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.conv(images))
        return logits


class WithUnusedNorm(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.unused = warmed_norm(4)


class WithTwoReaders(Tiny):
    def decoder_logits(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        logits: Tensor = self.norm(features) - 3 * features
        return logits


class Restless(Tiny):
    """Network whose logits change their sign from call to call."""

    sign = 1

    def decoder_logits(self, images: Tensor) -> Tensor:
        self.sign = -self.sign
        return self.sign * super().decoder_logits(images)


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv2"])
@pytest.mark.parametrize(
    "encoder", ["mobilenetv3_small_050", "test_efficientnet", "test_resnet", "test_convnext", "regnety_002"]
)
def test_every_batch_norm_of_an_encoder_is_folded(
    make_bundle: ..., tmp_path: Path, encoder: str, architecture: str
) -> None:
    deployable, _ = load_bundle(make_bundle(tmp_path, encoder=encoder, architecture=architecture))
    norms = count_norms(deployable)
    prepared = prepare(deployable, torch.randn(2, 3, 49, 65))
    assert prepared.fused == norms
    assert count_norms(prepared.deployable) == 0
    assert prepared.logit_difference < 1e-4


def test_the_model_itself_is_left_as_it_was(tiny_bundle: Path) -> None:
    deployable, _ = load_bundle(tiny_bundle)
    before = {name: value.clone() for name, value in deployable.state_dict().items()}
    prepare(deployable, torch.randn(1, 3, 64, 64))
    after = deployable.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), warmed_norm(4)],
        [warmed_norm(3), nn.Conv2d(3, 4, 1)],
    ],
    ids=["after an in-place activation", "before the convolution"],
)
def test_a_batch_norm_without_a_convolution_becomes_a_scale_and_a_shift(layers: list[nn.Module]) -> None:
    model = nn.Sequential(*layers).eval()
    image = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        expected = model(image)
        assert fuse_batch_norms(model, image) == 0
        assert count_norms(model) == 0
        torch.testing.assert_close(model(image), expected)


def test_a_batch_norm_that_the_forward_pass_leaves_out_is_an_error() -> None:
    with pytest.raises(ExportError, match="BatchNorm unused could not be folded"):
        prepare(WithUnusedNorm(), torch.randn(1, 3, 64, 64))


@torch.no_grad()
def test_a_convolution_that_a_shortcut_reads_beside_its_norm_is_not_folded() -> None:
    model, images = WithTwoReaders(), torch.randn(1, 3, 16, 16)
    expected = model.eval()(images)
    prepared = prepare(model, images)
    assert prepared.fused == 0
    assert count_norms(prepared.deployable) == 0
    torch.testing.assert_close(prepared.deployable(images), expected)


def test_a_fold_that_changes_the_masks_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"changed the class of .* pixels, by up to"):
        prepare(Restless(), torch.randn(1, 3, 64, 64))
