from __future__ import annotations

from typing import TYPE_CHECKING

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.models.encoder import Encoder, freeze_batch_norm_affine, kaiming_normal

if TYPE_CHECKING:
    from pathlib import Path

SMALL = "mobilenetv3_small_050"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty cache of a Hugging Face Hub that cannot be reached."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the variable at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_weights(cache: Path, name: str) -> dict[str, Tensor]:
    """Write random weights where the hub's client keeps downloaded ones, and return them."""
    weights = timm.create_model(name).state_dict()
    repo = timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--")
    folder = cache / f"models--{repo}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(weights, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    return weights


def dilations(encoder: Encoder, stage: str) -> list[int]:
    return [block.conv2.dilation[0] for block in encoder.body.get_submodule(stage)]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", SMALL, "convnext_atto"])
def test_features_come_at_stride_4_and_at_the_output_stride(name: str, output_stride: int) -> None:
    encoder = Encoder(name, output_stride=output_stride)
    low, high = encoder(torch.zeros(2, 3, 64, 96))
    assert low.shape == (2, encoder.low_channels, 16, 24)
    assert high.shape == (2, encoder.high_channels, 64 // output_stride, 96 // output_stride)


def test_the_last_stage_but_one_comes_between_those_of_forward() -> None:
    encoder = Encoder("resnet18", output_stride=16).eval()
    images = torch.randn(1, 3, 64, 64)
    low, middle, high = encoder.stages(images)
    assert middle.shape == (1, encoder.middle_channels, 4, 4)
    assert (encoder.middle_channels, encoder.high_channels) == (256, 512)
    assert all(torch.equal(*pair) for pair in zip((low, high), encoder(images), strict=True))


def test_odd_sizes_are_rounded_up() -> None:
    low, high = Encoder("resnet18")(torch.zeros(1, 3, 65, 49))
    assert low.shape[-2:] == (17, 13)
    assert high.shape[-2:] == (5, 4)


@pytest.mark.parametrize(("output_stride", "expected"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_multiplies_the_dilations_of_resnets_last_stage(
    output_stride: int, expected: list[int]
) -> None:
    encoder = Encoder("resnet50", output_stride=output_stride, multi_grid=(1, 2, 4))
    assert dilations(encoder, "layer4") == expected
    assert [block.conv2.padding[0] for block in encoder.body.get_submodule("layer4")] == expected
    assert [block.conv2.stride for block in encoder.body.get_submodule("layer4")] == [(1, 1)] * 3
    assert encoder(torch.zeros(1, 3, 64, 64))[1].shape[-1] == 64 // output_stride


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_multi_grid_needs_a_resnet_with_as_many_blocks(name: str) -> None:
    with pytest.raises(RecipeError, match=r"leave network\.multi_grid out"):
        Encoder(name, multi_grid=(1, 2, 4))


@pytest.mark.parametrize("name", ["resnet18", SMALL, "tf_mobilenetv3_small_075", "convnext_atto"])
def test_an_input_of_other_channels_changes_no_size(name: str) -> None:
    usual = Encoder(name)(torch.zeros(1, 3, 65, 49))
    other = Encoder(name, in_channels=25)(torch.zeros(1, 25, 65, 49))
    assert [each.shape for each in other] == [each.shape for each in usual]


def test_without_pretraining_nobody_asks_the_hub(hub_cache: Path) -> None:
    Encoder(SMALL)
    assert not list(hub_cache.iterdir())


def test_a_pretrained_encoder_has_the_weights_of_the_cache(hub_cache: Path) -> None:
    weights = put_weights(hub_cache, SMALL)
    for name, value in Encoder(SMALL, pretrained=True).body.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_pretrained_encoder_of_other_channels_draws_its_first_convolution_anew(hub_cache: Path) -> None:
    weights = put_weights(hub_cache, SMALL)
    torch.manual_seed(0)
    state = Encoder(SMALL, pretrained=True, in_channels=7).body.state_dict()
    stem = state.pop("conv_stem.weight")
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    bound = 1 / (7 * 3 * 3) ** 0.5  # the uniform default of PyTorch
    assert stem.shape[1] == 7
    assert 0.95 * bound < stem.abs().max() <= bound


def test_weights_that_cannot_be_had_are_an_error_with_the_ways_out(hub_cache: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"weights of resnet18 could not be had .*--no-pretrained"
    ) as caught:
        Encoder("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert not list(hub_cache.rglob("*.safetensors"))


def test_an_unknown_encoder_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(RecipeError, match=r"encoder resnet_50 is unknown, .*; near it: .*\bresnet50\b"):
        Encoder("resnet_50")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vgg11", "densenet121"])
def test_an_encoder_without_an_output_stride_is_an_error_that_names_others(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} cannot be built with features_only.* \(.+\): use a CNN"):
        Encoder(name)


def test_freezing_leaves_batch_statistics_running() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    freeze_batch_norm_affine(module)
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, False]
    module(torch.randn(2, 3, 4, 4) + 5)
    assert isinstance(module[1], nn.BatchNorm2d)
    assert module[1].running_mean is not None
    assert module[1].running_mean.any()


def test_kaiming_normal_has_the_deviation_of_the_fan_in() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128))
    kaiming_normal(module)
    assert isinstance(module[0], nn.Conv2d)
    assert module[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert module[0].bias is not None
    assert not module[0].bias.any()
