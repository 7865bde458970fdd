"""The smallest encoder of each family: a training step, the stripped bundle, and the exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.conftest import IMGSZ as SIZE
from tests.conftest import save_student
from zoo.bundle.weights import load_bundle
from zoo.export.untrained import check_untrained
from zoo.models.config import NetworkConfig
from zoo.models.facts import encoder_facts
from zoo.predictors.eager import EagerPredictor
from zoo.train.method import Batch, progress_at
from zoo.train.methods.supervised import SupervisedConfig
from zoo.train.methods.table import build_method

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {
    "ResNet": "test_resnet",
    "EfficientNet": "test_efficientnet",
    "MobileNet": "mobilenetv3_small_050",
    "RegNet": "regnety_002",
    "HRNet": "hrnet_w18_small",
    "ConvNeXt": "test_convnext",
    "Swin": "swin_tiny_patch4_window7_224",
    "PVT": "pvt_v2_b0",
    "MaxViT": "test_maxvit",
    "CAFormer": "caformer_s18",
    "Hiera": "hiera_tiny_224",
    "DeiT": "deit_tiny_patch16_224",
    "EVA-02": "eva02_tiny_patch14_224",
    "DINOv2": "vit_small_patch14_reg4_dinov2",
    "SigLIP": "vit_base_patch32_siglip_256",
}
HEAVY = {"Swin", "CAFormer", "Hiera", "DINOv2", "SigLIP"}
"""Families whose smallest encoder has 20 M parameters and more."""
PLAIN = {"DeiT", "EVA-02", "DINOv2", "SigLIP"}
NOT_EXPORTED_ELSEWHERE = ("RegNet", "HRNet", "CAFormer", "EVA-02", "DINOv2")
"""Families whose layers neither `test_encoders` nor `tests/export/test_untrained` exports."""


def bundle_after_a_step(family: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the bundle of a network after one step of training; return an image and its logits."""
    torch.manual_seed(0)
    name = FAMILIES[family]
    decoder = (
        {"name": "dpt", "reassemble_channels": (4, 6, 8, 10)}
        if family in PLAIN
        else {"name": "deeplabv3plus"}
    )
    size = SIZE if encoder_facts(name).size else None
    network = NetworkConfig.model_validate(
        {
            "encoder": name,
            "num_classes": 3,
            "encoder_size": size,
            "decoder": {**decoder, "decoder_channels": 8},
        }
    )
    method = build_method(SupervisedConfig(), network, pretrained=False).train()
    label = torch.randint(3, (2, *SIZE))
    batch = Batch(torch.randn(2, 3, *SIZE), label, torch.ones_like(label, dtype=torch.bool))
    (optimizer,) = method.optimizers()
    parameters = list(method.get_submodule("student.encoder").parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    torch.stack(list(method(batch, progress_at(0, method.phases(1))).values())).sum().backward()
    optimizer.step()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in parameters)
    moved = [not torch.equal(*pair) for pair in zip(before, parameters, strict=True)]
    assert moved[0]  # the stem
    assert sum(moved) > len(moved) // 5  # residual branches that end in zeros move from the second step
    deployable = method.deployable().eval()
    save_student(folder, deployable)
    image = torch.randn(1, 3, 40, 52)
    with torch.no_grad():
        return image, deployable(image)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in FAMILIES]
)
def test_a_training_step_reaches_the_encoder_and_its_bundle_gives_the_same_logits(
    family: str, tmp_path: Path
) -> None:
    image, logits = bundle_after_a_step(family, tmp_path)
    deployable, _ = load_bundle(tmp_path)
    with torch.no_grad():
        assert torch.equal(deployable.eval()(image), logits)
    assert logits.shape == (1, 3, 40, 52)


@pytest.mark.slow
@pytest.mark.parametrize("family", NOT_EXPORTED_ELSEWHERE)
def test_the_exported_file_agrees_with_the_bundle(family: str, tmp_path: Path) -> None:
    bundle_after_a_step(family, tmp_path)
    check_untrained(EagerPredictor(*load_bundle(tmp_path)))
