from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from zoo.models.config import DECODER_KEYS, DeepLabV2Config, DeepLabV3PlusConfig, NetworkConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.decoders.deeplabv2 import DeepLabV2
from zoo.models.decoders.deeplabv3plus import Aspp, DeepLabV3Plus, JointAspp
from zoo.models.error_localizer import ErrorLocalizer
from zoo.models.segmentation import SegmentationNetwork

TINY: dict[str, Any] = {
    "encoder": "mobilenetv3_small_050",
    "num_classes": 3,
    "rates": (1, 2, 3),
    "low_level_channels": 8,
    "decoder_channels": 16,
}


def tiny(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**(TINY | changes))


FEATURES: Any = SimpleNamespace(channels=(4, 6), strides=(4, 16))


def settings(**changes: Any) -> DeepLabV3PlusConfig:
    return DeepLabV3PlusConfig(**({key: TINY[key] for key in DECODER_KEYS & TINY.keys()} | changes))


def decoder_of(**changes: Any) -> DeepLabV3Plus:
    return DeepLabV3Plus(FEATURES, settings(**changes), num_classes=3)


def dropouts(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]


@pytest.mark.parametrize("size", [(64, 64), (65, 49), (33, 70)])
@pytest.mark.parametrize("aspp", ["projected", "neck", "joint"])
def test_v3plus_returns_logits_and_embedding_at_stride_4_of_any_size(
    aspp: str, size: tuple[int, int]
) -> None:
    network = SegmentationNetwork(tiny(aspp=aspp, embedding_channels=5)).eval()
    output = network(torch.zeros(2, 3, *size))
    grid = tuple(-(-side // 4) for side in size)
    assert output.logits.shape == (2, 3, *grid)
    assert output.embedding.shape == (2, 5, *grid)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_v2_returns_logits_and_embedding_at_the_output_stride(output_stride: int) -> None:
    config = tiny(architecture="deeplabv2", output_stride=output_stride, embedding_channels=5)
    output = SegmentationNetwork(config).eval()(torch.zeros(2, 3, 64, 64))
    assert output.logits.shape == (2, 3, 64 // output_stride, 64 // output_stride)
    assert output.embedding.shape == (2, 5, 64 // output_stride, 64 // output_stride)


def test_v2_sums_all_branches() -> None:
    decoder = DeepLabV2(FEATURES, DeepLabV2Config(rates=(6, 12, 18, 24)), num_classes=3)
    high = torch.randn(1, 6, 5, 5)
    by_hand = torch.zeros(1, 3, 5, 5)
    for branch in decoder.branches:
        by_hand = by_hand + branch(high)
    assert len(decoder.branches) == 4
    torch.testing.assert_close(decoder([torch.empty(0), high]).logits, by_hand)


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv2"])
def test_without_channels_for_it_there_is_no_embedding(architecture: str) -> None:
    network = SegmentationNetwork(tiny(architecture=architecture))
    assert network.decoder.embed is None
    assert network(torch.zeros(2, 3, 64, 64)).embedding is None


def test_the_projected_aspp_trains_with_one_image_and_the_neck_does_not() -> None:
    image = torch.randn(1, 3, 64, 64)
    projected = SegmentationNetwork(tiny(aspp="projected")).train()
    assert projected(image).logits.isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SegmentationNetwork(tiny(aspp="neck")).train()(image)


def test_the_projected_aspp_is_that_of_the_authors_of_eln() -> None:
    aspp = Aspp(10, settings(aspp="projected", rates=(6, 12, 18)))
    convs = [m for m in aspp.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.dilation[0]) for c in convs] == [
        (1, 1),
        (3, 6),
        (3, 12),
        (3, 18),
        (1, 1),
        (1, 1),
    ]
    assert all(conv.bias is None for conv in convs)
    assert [(c.in_channels, c.out_channels) for c in convs[-2:]] == [(10, 16), (80, 16)]
    assert not [m for m in aspp.pool.modules() if isinstance(m, nn.BatchNorm2d)]


def test_the_neck_reduces_by_a_3x3_convolution_and_normalizes_the_pooled_features() -> None:
    aspp = Aspp(10, settings(aspp="neck"))
    assert [m.kernel_size for m in aspp.reduce.modules() if isinstance(m, nn.Conv2d)] == [(3, 3)]
    assert [m for m in aspp.pool.modules() if isinstance(m, nn.BatchNorm2d)]


def test_the_joint_aspp_normalizes_all_branches_at_once_and_adds_the_pooled_one() -> None:
    aspp = JointAspp(10, settings(aspp="joint", rates=(6, 12, 18))).eval()
    convs = [m for m in aspp.branches if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.dilation[0], c.bias) for c in convs] == [
        (1, 1, None),
        (3, 6, None),
        (3, 12, None),
        (3, 18, None),
    ]
    assert [m.num_features for m in aspp.modules() if isinstance(m, nn.BatchNorm2d)] == [64, 16, 16]
    high = torch.randn(2, 10, 5, 7)
    by_hand = aspp.project(torch.cat([conv(high) for conv in convs], dim=1))
    pooled = aspp.pool(high.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(aspp(high), aspp.reduce(by_hand + pooled))


def test_a_linear_head_is_two_3x3_blocks_and_one_1x1_convolution() -> None:
    decoder = decoder_of(head="linear")
    assert [m.kernel_size for m in decoder.fuse.modules() if isinstance(m, nn.Conv2d)] == [(3, 3), (3, 3)]
    assert [m.kernel_size for m in decoder.segment.modules() if isinstance(m, nn.Conv2d)] == [(1, 1)]


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_a_separate_embedding_shares_nothing_with_the_classes_after_the_join(head: str) -> None:
    decoder = DeepLabV3Plus(
        FEATURES, settings(head=head, separate_embedding=True), num_classes=3, embedding_channels=5
    )
    output = decoder([torch.randn(2, 4, 12, 12), torch.randn(2, 6, 3, 3)])
    assert output.embedding.shape == (2, 5, 12, 12)
    output.embedding.sum().backward()
    reached = {name.split(".")[0] for name, p in decoder.named_parameters() if p.grad is not None}
    assert reached == {"aspp", "low_level", "embed"}


def test_pooled_features_are_the_same_everywhere() -> None:
    aspp = Aspp(4, settings()).eval()
    high = torch.randn(1, 4, 5, 7)
    pooled: Tensor = aspp.pool(high)
    assert pooled.shape == (1, 16, 1, 1)
    assert aspp(high).shape == (1, 16, 5, 7)


def test_dropout_rates_are_those_of_the_configuration_in_order() -> None:
    decoder = DeepLabV3Plus(
        FEATURES, settings(dropout={"aspp": 0.2, "fuse_1": 0.3, "fuse_2": 0.4}), num_classes=3
    )
    assert [layer.p for layer in dropouts(decoder)] == [0.2, 0.3, 0.4]
    assert {type(layer) for layer in dropouts(decoder)} == {nn.Dropout}


def test_channel_dropout_drops_whole_channels() -> None:
    assert {type(layer) for layer in dropouts(decoder_of(channel_dropout=True))} == {nn.Dropout2d}


def test_a_new_decoder_fits_the_same_features_and_has_its_own_weights() -> None:
    network = SegmentationNetwork(tiny(embedding_channels=5)).eval()
    other = network.new_decoder(embedding_channels=0).eval()
    features = network.encoder(torch.randn(1, 3, 64, 64))
    assert other(features).logits.shape == network.decoder(features).logits.shape
    assert other.embed is None
    assert not torch.equal(other(features).logits, network.decoder(features).logits)


def test_resizing_keeps_the_corners() -> None:
    logits = torch.tensor([[[[0.0, 4.0]]]])
    assert resize_logits(logits, (1, 5)).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 1}, {"num_classes": 256}, {"output_stride": 4}, {"aspp": "other"}, {"depth": 3}],
)
def test_settings_that_no_network_has_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        tiny(**changes)


def test_there_are_fewer_classes_than_the_label_that_is_ignored() -> None:
    assert tiny(num_classes=255).num_classes == 255  # labels 0..254


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv2"])
def test_the_localizer_judges_at_stride_4(architecture: str, outputs: int) -> None:
    config = tiny(architecture=architecture, aspp="neck", channel_dropout=True)
    localizer = ErrorLocalizer("mobilenetv3_small_050", config, pretrained=False, outputs=outputs)
    judged = localizer(torch.zeros(1, 3, 65, 49), torch.zeros(1, 1, 65, 49), torch.zeros(1, 3, 65, 49))
    assert judged.shape == (1, outputs, 17, 13)
    assert [layer.p for layer in dropouts(localizer.decoder)] == [0.5, 0.5, 0.1]


def test_the_localizer_sees_image_then_entropy_then_scores() -> None:
    localizer = ErrorLocalizer("mobilenetv3_small_050", tiny(), pretrained=False)
    seen = []
    localizer.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    localizer(
        torch.full((2, 3, 32, 32), 1.0), torch.full((2, 1, 32, 32), 2.0), torch.full((2, 3, 32, 32), 3.0)
    )
    assert seen[0][0, :, 0, 0].tolist() == [1, 1, 1, 2, 3, 3, 3]
