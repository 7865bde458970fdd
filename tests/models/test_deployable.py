from __future__ import annotations

import pytest
import torch

from zoo.models.deeplab import NetworkConfig, SegmentationNetwork, resize_logits
from zoo.models.deployable import Student, build_deployable


def tiny(architecture: str = "deeplabv3plus") -> SegmentationNetwork:
    config = {"architecture": architecture, "encoder": "mobilenetv3_small_050", "rates": (1, 2)}
    sizes = {"num_classes": 3, "low_level_channels": 8, "decoder_channels": 16, "embedding_channels": 4}
    return SegmentationNetwork(NetworkConfig.model_validate(config | sizes)).eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 49), (34, 71)])
@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv2"])
def test_logits_have_the_size_of_the_image(architecture: str, size: tuple[int, int]) -> None:
    assert Student(tiny(architecture))(torch.zeros(2, 3, *size)).shape == (2, 3, *size)


def test_logits_are_the_networks_resized() -> None:
    network, images = tiny(), torch.randn(1, 3, 40, 56)
    expected = network(images).logits
    student = Student(network)
    assert torch.equal(student.decoder_logits(images), expected)
    assert torch.equal(student(images), resize_logits(expected, (40, 56)))


def test_the_embedding_head_is_dropped_from_weights_and_configuration() -> None:
    student = Student(tiny())
    assert not [key for key in student.state_dict() if "embed" in key]
    assert student.config.network.embedding_channels == 0


def test_a_student_built_from_its_configuration_takes_its_weights() -> None:
    student, images = Student(tiny()), torch.randn(1, 3, 48, 48)
    rebuilt = build_deployable(student.config).eval()
    rebuilt.load_state_dict(student.state_dict())
    assert torch.equal(rebuilt(images), student(images))
