from __future__ import annotations

from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.models.config import NetworkConfig
from zoo.models.decoders.decoder import kaiming_normal
from zoo.models.encoder import (
    TimmEncoder,
    build_encoder,
    freeze_batch_norm_affine,
    normalization_of,
    size_for,
)
from zoo.models.error_localizer import ErrorLocalizer

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


def dilations(encoder: TimmEncoder, stage: str) -> list[int]:
    return [block.conv2.dilation[0] for block in encoder.body.get_submodule(stage)]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", SMALL, "convnext_atto"])
def test_features_come_at_stride_4_and_at_the_output_stride(name: str, output_stride: int) -> None:
    encoder = build_encoder(name, output_stride=output_stride)
    features = encoder(torch.zeros(2, 3, 64, 96))
    assert [each.shape for each in features] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert 4 in encoder.strides
    assert encoder.strides[-1] == output_stride
    assert sorted(encoder.strides) == list(encoder.strides)


def test_odd_sizes_are_rounded_up() -> None:
    features = build_encoder("resnet18")(torch.zeros(1, 3, 65, 49))
    assert [tuple(each.shape[-2:]) for each in features] == [(33, 25), (17, 13), (9, 7), (5, 4), (5, 4)]


@pytest.mark.parametrize(("output_stride", "expected"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_multiplies_the_dilations_of_resnets_last_stage(
    output_stride: int, expected: list[int]
) -> None:
    encoder = build_encoder("resnet50", output_stride=output_stride, multi_grid=(1, 2, 4))
    assert dilations(encoder, "layer4") == expected
    assert [block.conv2.padding[0] for block in encoder.body.get_submodule("layer4")] == expected
    assert [block.conv2.stride for block in encoder.body.get_submodule("layer4")] == [(1, 1)] * 3
    assert encoder(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 64 // output_stride


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_multi_grid_needs_a_resnet_with_as_many_blocks(name: str) -> None:
    with pytest.raises(RecipeError, match=r"leave network\.multi_grid out"):
        build_encoder(name, multi_grid=(1, 2, 4))


@pytest.mark.parametrize("name", ["resnet18", SMALL, "tf_mobilenetv3_small_075", "convnext_atto"])
def test_an_input_of_other_channels_changes_no_size(name: str) -> None:
    usual = build_encoder(name)(torch.zeros(1, 3, 65, 49))
    other = build_encoder(name, in_channels=25)(torch.zeros(1, 25, 65, 49))
    assert [each.shape for each in other] == [each.shape for each in usual]


def test_without_pretraining_nobody_asks_the_hub(hub_cache: Path) -> None:
    build_encoder(SMALL)
    assert not list(hub_cache.iterdir())


def test_a_pretrained_encoder_has_the_weights_of_the_cache(hub_cache: Path) -> None:
    weights = put_weights(hub_cache, SMALL)
    for name, value in build_encoder(SMALL, pretrained=True).body.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_pretrained_encoder_of_other_channels_repeats_the_rgb_weights(hub_cache: Path) -> None:
    weights = put_weights(hub_cache, SMALL)
    state = build_encoder(SMALL, pretrained=True, in_channels=7).body.state_dict()
    stem = state.pop("conv_stem.weight")
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    repeated = weights["conv_stem.weight"][:, [0, 1, 2, 0, 1, 2, 0]]
    torch.testing.assert_close(stem, repeated * 3 / 7)


def test_the_localizer_draws_its_first_convolution_anew(hub_cache: Path) -> None:
    weights = put_weights(hub_cache, SMALL)
    torch.manual_seed(0)
    network = NetworkConfig(encoder=SMALL, num_classes=3)
    state = ErrorLocalizer(SMALL, network, pretrained=True).encoder.body.state_dict()
    stem = state.pop("conv_stem.weight")
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    bound = 1 / (7 * 3 * 3) ** 0.5  # the uniform default of PyTorch
    assert stem.shape[1] == 7
    assert 0.95 * bound < stem.abs().max() <= bound


def test_weights_that_cannot_be_had_are_an_error_with_the_ways_out(hub_cache: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"weights of resnet18 cannot .*--no-pretrained.*; tf_efficientnet_lite0 needs no download",
    ) as caught:
        build_encoder("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
    assert not list(hub_cache.rglob("*.safetensors"))


def test_an_unknown_encoder_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(RecipeError, match=r"encoder resnet_50 is unknown, .*; near it: .*\bresnet50\b"):
        build_encoder("resnet_50")


@pytest.mark.parametrize(
    "name", ["hrnet_w18_small", "densenet121", "pvt_v2_b0", "swin_s3_tiny_224", "mambaout_femto"]
)
def test_an_encoder_whose_strides_cannot_be_chosen_keeps_its_own(name: str) -> None:
    encoder = build_encoder(name, output_stride=8).eval()
    assert encoder.strides[-4:] == (4, 8, 16, 32)
    found = [tuple(each.shape[1:]) for each in encoder(torch.zeros(1, 3, 70, 97))]
    sizes = [(-(-70 // stride), -(-97 // stride)) for stride in encoder.strides]
    if name == "densenet121":  # its pooling rounds down
        sizes[2:] = [(9, 12), (4, 6), (2, 3)]
    assert found == [(channels, *size) for channels, size in zip(encoder.channels, sizes, strict=True)]


@pytest.mark.parametrize("name", ["hiera_tiny_224", "beit_base_patch16_224"])
def test_an_encoder_of_one_size_of_images_needs_that_size(name: str) -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match=rf"{name} .* network\.encoder_size to it"):
        build_encoder(name)


ONE_SIZE = (
    "maxvit_pico_rw_256",
    "swinv2_cr_tiny_224",
    "hiera_tiny_224",
    "beit_base_patch16_224",
    "levit_128s",
)


@pytest.mark.parametrize("name", ONE_SIZE)
def test_an_encoder_of_one_size_takes_images_of_any_size(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, size=(64, 96))
        found = [tuple(each.shape) for each in encoder(torch.zeros(2, 3, 70, 51))]
    sizes = [(-(-64 // stride), -(-96 // stride)) for stride in encoder.strides]
    assert found == [(2, channels, *size) for channels, size in zip(encoder.channels, sizes, strict=True)]


@torch.no_grad()
def test_images_of_another_size_are_resized_to_the_encoders() -> None:
    encoder = build_encoder("test_vit", size=(64, 96)).eval()
    images = torch.randn(1, 3, 50, 70)
    resized = F.interpolate(images, size=(64, 96), mode="bilinear", align_corners=True)
    for got, expected in zip(encoder(images), encoder.encode(resized), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(encoder(resized), encoder.encode(resized), strict=True):
        assert torch.equal(got, expected)  # nothing is lost at the encoder's own size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", None),
        ("test_vit", None),
        ("mvitv2_tiny", None),  # timm calls its size fixed, but it runs at any
        ("hiera_tiny_224", (128, 160)),
        ("swin_tiny_patch4_window7_224", (128, 160)),
        ("convit_tiny", (224, 224)),  # square images only
    ],
)
def test_an_encoder_of_one_size_runs_at_that_of_the_crop_or_of_its_weights(
    name: str, size: tuple[int, int] | None
) -> None:
    assert size_for(name, (100, 150)) == size


def test_an_encoder_that_cannot_run_at_a_size_names_one_at_which_it_does() -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match=r"convit_tiny cannot run at .*\[224, 224\]"):
        build_encoder("convit_tiny", size=(64, 96))


@pytest.mark.parametrize(("name", "multiple"), [("hrnet_w18_small", 32), ("dla34", 32), ("resnet18", 1)])
def test_the_multiple_that_sizes_of_images_must_be_is_found(name: str, multiple: int) -> None:
    assert build_encoder(name).size_multiple == multiple


@torch.no_grad()
def test_padding_goes_right_and_below_and_is_cut_off() -> None:
    encoder = build_encoder("dla34").eval()
    images = torch.randn(2, 3, 40, 70)
    padded = torch.zeros(2, 3, 64, 96)
    padded[:, :, :40, :70] = images
    expected = encoder.encode(padded)
    for got, whole, stride in zip(encoder(images), expected, encoder.strides, strict=True):
        height, width = -(-40 // stride), -(-70 // stride)
        assert torch.equal(got, whole[:, :, :height, :width])


def test_trying_an_encoder_leaves_its_statistics_and_mode() -> None:
    encoder = build_encoder("resnet18")
    assert all(module.training for module in encoder.modules())
    assert {int(value) for name, value in encoder.state_dict().items() if "num_batches" in name} == {0}


def test_random_weights_are_those_of_timm_bit_by_bit() -> None:
    torch.manual_seed(3)
    encoder = build_encoder("resnet18", output_stride=8)
    after = torch.rand(())
    torch.manual_seed(3)
    body = timm.create_model("resnet18", features_only=True, output_stride=8, in_chans=3)
    assert torch.equal(torch.rand(()), after)
    assert all(torch.equal(*pair) for pair in zip(encoder.body.parameters(), body.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (
            "convnext_base.clip_laion2b",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ],
)
def test_the_normalization_is_that_of_the_weights(name: str, mean: Any, std: Any) -> None:
    assert normalization_of(name) == (mean, std)


def test_an_encoder_carries_the_normalization_of_its_weights() -> None:
    encoder = build_encoder("tf_efficientnet_lite0")
    assert (encoder.mean, encoder.std) == normalization_of("tf_efficientnet_lite0")


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
