"""Low-rank adaptation of attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from zoo.errors import RecipeError
from zoo.models.config import DptConfig, NetworkConfig
from zoo.models.lora import add_lora, merge_lora
from zoo.models.segmentation import SegmentationNetwork
from zoo.train.optim import OptimizerConfig

SMALL = DptConfig(decoder_channels=8, reassemble_channels=(4, 6, 8, 10))


def network_of(encoder: str = "test_vit", **changes: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    decoder = SMALL if encoder.startswith(("test_vit", "beit", "eva")) else NetworkConfig().decoder
    config = NetworkConfig(encoder=encoder, num_classes=3, decoder=decoder, **changes)
    return SegmentationNetwork(config).eval()


def learn(network: SegmentationNetwork) -> None:
    """Take one large step on noise."""
    optimizer = OptimizerConfig(lr=0.1, encoder_lr_mult=1).build([(network.encoder, 1.0)])
    network(torch.randn(2, 3, 32, 32)).logits.square().sum().backward()
    optimizer.step()


def test_nothing_changes_until_a_step_is_taken() -> None:
    network, images = network_of(), torch.randn(1, 3, 32, 48)
    before = network(images).logits
    add_lora(network, 2)
    assert torch.equal(network(images).logits, before)


@pytest.mark.parametrize("encoder", ["test_vit", "pvt_v2_b0"])
def test_only_low_rank_parts_of_attention_learn_in_the_encoder(encoder: str) -> None:
    network = network_of(encoder)
    whole = sum(p.numel() for p in network.encoder.parameters())
    add_lora(network, 2)
    trained = {name: p for name, p in network.encoder.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"}
    assert all("attn" in name for name in trained)
    assert 0 < sum(p.numel() for p in trained.values()) < 0.1 * whole
    frozen = {name: p.clone() for name, p in network.encoder.named_parameters() if not p.requires_grad}
    learn(network)
    assert all(torch.equal(dict(network.encoder.named_parameters())[name], p) for name, p in frozen.items())
    assert any(p.grad is not None and p.grad.any() for p in trained.values())


@pytest.mark.parametrize("encoder", ["test_vit", "pvt_v2_b0"])
def test_merged_weights_compute_the_same_under_the_names_of_a_plain_network(encoder: str) -> None:
    network, images = network_of(encoder), torch.randn(1, 3, 32, 32)
    plain = copy.deepcopy(network)
    add_lora(network, 2)
    learn(network)
    adapted = network(images).logits
    merge_lora(network)
    assert torch.allclose(network(images).logits, adapted, atol=1e-5)
    assert not torch.allclose(adapted, plain(images).logits, atol=1e-3)
    plain.load_state_dict(network.state_dict())
    assert torch.allclose(plain(images).logits, adapted, atol=1e-5)


def test_attention_that_reads_its_weight_is_adapted() -> None:
    network = network_of("beit_base_patch16_224", encoder_size=(32, 32))
    add_lora(network, 2)
    learn(network)  # BEiT computes F.linear(x, self.qkv.weight, bias)
    ups = {
        name: p
        for name, p in network.encoder.named_parameters()
        if name.endswith("qkv.parametrizations.weight.0.up")
    }
    assert ups
    assert all(p.any() for p in ups.values())


def test_a_teacher_gets_parts_that_do_not_learn() -> None:
    teacher = network_of().requires_grad_(False)
    add_lora(teacher, 2)
    assert not teacher.is_trained


def test_layer_decay_reaches_the_low_rank_parts() -> None:
    network = network_of()
    add_lora(network, 2)
    optimizer = OptimizerConfig(lr=1.0, layer_decay=0.5).build([(network.encoder, 1.0)])
    blocks = len(network.encoder.body.model.blocks)  # type: ignore[union-attr, arg-type]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5**above for above in range(1, blocks + 1)]


def test_an_encoder_without_attention_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"resnet18 has no attention.*vit_small_patch14_dinov2"):
        add_lora(network_of("resnet18"), 4)
    with pytest.raises(RecipeError, match="trains no segmentation network"):
        add_lora(nn.Linear(2, 2), 4)
