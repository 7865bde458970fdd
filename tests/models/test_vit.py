from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from zoo.errors import RecipeError
from zoo.models.config import DptConfig, NetworkConfig
from zoo.models.encoder import TimmEncoder, build_encoder, normalization_of
from zoo.models.segmentation import SegmentationNetwork
from zoo.models.vit import is_plain_transformer

TINY = "test_vit"
SMALL_DPT = DptConfig(decoder_channels=8, reassemble_channels=(4, 6, 8, 10))


def tokens_of(model: Any, images: Tensor) -> Tensor:
    """Return the patch tokens of timm's own forward pass as (B, C, h, w) maps."""
    height, width = model.patch_embed.grid_size
    tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
    return tokens.transpose(1, 2).unflatten(2, (height, width))


@torch.no_grad()
@pytest.mark.parametrize("name", [TINY, "test_vit2", "eva02_tiny_patch14_224", "vit_tiny_r_s16_p8_224"])
def test_the_last_features_are_the_tokens_of_timms_own_forward_pass(name: str) -> None:
    encoder = build_encoder(name).eval()
    assert isinstance(encoder, TimmEncoder)
    model = timm.create_model(name).eval()
    model.load_state_dict(encoder.body.model.state_dict(), strict=False)
    images = torch.randn(2, 3, *model.patch_embed.img_size)
    torch.testing.assert_close(encoder(images)[-1], tokens_of(model, images))


@torch.no_grad()
def test_features_are_those_after_equal_shares_of_the_blocks() -> None:
    encoder = build_encoder("test_vit2").eval()  # of eight blocks
    model = timm.create_model("test_vit2").eval()
    model.load_state_dict(encoder.body.model.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(images, indices=[1, 3, 5, 7], norm=True, intermediates_only=True)
    assert all(torch.equal(*pair) for pair in zip(encoder(images), expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "patch"),
    [
        (TINY, 16),
        ("deit_tiny_distilled_patch16_224", 16),
        ("vit_small_patch14_reg4_dinov2", 14),
        ("vit_small_patch16_dinov3", 16),
        ("eva02_tiny_patch14_224", 14),
        ("xcit_nano_12_p16_224", 16),
    ],
)
def test_it_takes_images_of_any_size(name: str, patch: int) -> None:
    encoder = build_encoder(name).eval()
    assert encoder.strides == (patch,) * 4
    assert encoder.size_multiple == (1 if "xcit" in name else patch)  # its patches come of convolutions
    for height, width in ((1, 1), (70, 97), (3 * patch, 5 * patch)):
        expected = (1, encoder.channels[0], -(-height // patch), -(-width // patch))
        assert [tuple(each.shape) for each in encoder(torch.randn(1, 3, height, width))] == [expected] * 4


@torch.no_grad()
def test_an_image_that_the_patch_does_not_divide_is_resized() -> None:
    encoder = build_encoder(TINY).eval()
    images = torch.randn(1, 3, 40, 70)
    resized = torch.nn.functional.interpolate(images, (48, 80), mode="bilinear", align_corners=True)
    assert all(torch.equal(*pair) for pair in zip(encoder(images), encoder.encode(resized), strict=True))
    assert torch.equal(encoder(resized)[-1], encoder.encode(resized)[-1])


def test_it_carries_the_normalization_of_its_weights() -> None:
    name = "vit_base_patch16_siglip_224"
    assert is_plain_transformer(name)
    assert normalization_of(name) == ((0.5,) * 3, (0.5,) * 3)


def test_the_localizers_input_reaches_its_patches() -> None:
    assert build_encoder(TINY, in_channels=7)(torch.zeros(2, 7, 32, 48))[0].shape == (2, 64, 2, 3)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto", "nothing"])
def test_other_models_are_no_plain_transformers(name: str) -> None:
    assert not is_plain_transformer(name)


def test_deeplabv3plus_refuses_a_plain_transformer_and_names_dpt() -> None:
    with pytest.raises(RecipeError, match=r"strides 16, 16, 16, 16: .*network\.decoder\.name=dpt"):
        SegmentationNetwork(NetworkConfig(encoder=TINY))


@pytest.mark.parametrize(
    ("encoder", "grid"),
    [(TINY, (24, 40)), ("vit_small_patch14_dinov2", (24, 40)), ("test_resnet", (20, 34))],
)
@torch.no_grad()
def test_dpts_logits_are_twice_as_fine_as_its_finest_level(encoder: str, grid: tuple[int, int]) -> None:
    config = NetworkConfig(encoder=encoder, num_classes=5, decoder=SMALL_DPT, embedding_channels=3)
    network = SegmentationNetwork(config).eval()
    output = network(torch.randn(2, 3, 40, 68))
    assert output.logits.shape == (2, 5, *grid)
    assert output.embedding.shape == (2, 3, *grid)


def test_each_of_the_four_features_reaches_dpts_logits() -> None:
    network = SegmentationNetwork(NetworkConfig(encoder=TINY, decoder=SMALL_DPT)).eval()
    features = [each.detach().requires_grad_() for each in network.encoder(torch.randn(1, 3, 48, 48))]
    network.decoder(features).logits.square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in features)


def test_dpt_trains_every_parameter_on_one_image() -> None:
    network = SegmentationNetwork(
        NetworkConfig(encoder=TINY, decoder=SMALL_DPT, embedding_channels=3)
    ).train()
    output = network(torch.randn(1, 3, 64, 64))
    (output.logits.square().sum() + output.embedding.square().sum()).backward()
    assert not [name for name, p in network.decoder.named_parameters() if p.grad is None]


def test_dpt_refuses_an_encoder_with_fewer_features() -> None:
    encoder = build_encoder("test_resnet")
    encoder.strides, encoder.channels = encoder.strides[-2:], encoder.channels[-2:]
    network = SegmentationNetwork(NetworkConfig(encoder="test_resnet", decoder=SMALL_DPT))
    network.encoder = encoder
    with pytest.raises(RecipeError, match=r"dpt needs 4 features, got an encoder with 2: .*deeplabv2"):
        network.new_decoder()
