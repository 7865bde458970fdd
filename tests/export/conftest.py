"""Bundles as runs leave them, all of the classes of `shapes`: a student, an ensemble, a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from zoo.bundle.bundle import BundleConfig
from zoo.bundle.weights import save_bundle
from zoo.card.card import model_card
from zoo.classes import Classes
from zoo.data.shapes import NAMES, ShapesSource
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig, EnsembleConfig, NetworkConfig, StudentConfig
from zoo.models.deployable import Deployable, FusedEnsemble, Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.preprocess import Preprocessing, normalize, resize_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    WriteBundle = Callable[..., Path]
    Photos = Callable[..., NDArray[np.uint8]]

ENCODER = "test_resnet"
PREPROCESSING = Preprocessing(imgsz=(64, 64))


class Network(Deployable):
    """As little as can be exported."""

    config = StudentConfig(network=NetworkConfig())

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3, stride=4, padding=1)

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


def shapes_images(count: int, size: tuple[int, int] = (64, 64)) -> NDArray[np.uint8]:
    """Return images of `shapes`, (B, H, W, 3) uint8."""
    source = ShapesSource()
    images = [torch.tensor(resize_image(source.read_image(id_), size)) for id_ in source.ids("val")[:count]]
    return torch.stack(images).numpy()


def network_inputs(count: int) -> torch.Tensor:
    return normalize(torch.from_numpy(shapes_images(count)).permute(0, 3, 1, 2), PREPROCESSING)


@torch.no_grad()
def spread(last: nn.Conv2d | nn.Linear, logits: torch.Tensor, width: float) -> None:
    """Change a network's last layer so that each class has logits of mean 0 and this standard deviation."""
    assert last.bias is not None
    logits = logits.flatten(2) if logits.ndim == 4 else logits.unsqueeze(2)
    mean, scale = logits.mean(dim=(0, 2)), width / logits.std(dim=(0, 2))
    last.weight *= scale.view(-1, *[1] * (last.weight.ndim - 1))
    last.bias.copy_((last.bias - mean) * scale)


@torch.no_grad()
def segmentation_network(seed: int) -> SegmentationNetwork:
    """Return a network that has seen `shapes` and predicts every class somewhere."""
    torch.manual_seed(seed)
    config = {"encoder": ENCODER, "num_classes": len(NAMES), "output_stride": 8, "rates": (1, 2)}
    config |= {"decoder_channels": 16, "low_level_channels": 8}
    network = SegmentationNetwork(NetworkConfig.model_validate(config)).train()
    for _ in range(8):
        network(network_inputs(8))
    network.eval()
    last: Any = network.decoder.segment[-1]
    spread(last, network(network_inputs(8)).logits, 2)
    return network


@torch.no_grad()
def image_classifier(imgsz: tuple[int, int] = (48, 48)) -> ImageClassifier:
    """Return a classifier that has seen `shapes` and is sure of what it says of each image."""
    torch.manual_seed(5)
    classifier = ImageClassifier(
        ClassifierConfig(encoder=ENCODER, num_classes=len(NAMES), imgsz=imgsz)
    ).train()
    for _ in range(8):
        classifier(network_inputs(8))
    classifier.eval()
    body: Any = classifier.body
    spread(body.get_classifier(), classifier(network_inputs(16)), 6)
    return classifier


def write(folder: Path, model: Any, method: str, weights: str, **changes: Any) -> Path:
    """Write the bundle of a model and return its folder."""
    config = BundleConfig.model_validate(
        {
            "deployable": model.config,
            "method": method,
            "weights": weights,
            "names": NAMES,
            "palette": Classes.of(NAMES).palette,
            "preprocessing": PREPROCESSING,
            "recipe": {"data": {"spec": "shapes"}, "pretrained": False},
            "provenance": {
                "step": 7,
                "partition": {
                    "spec": "1/16",
                    "seed": 0,
                    "digest": "0123abc",
                    "counts": {"labeled": 30, "unlabeled": 450},
                },
                "parameters": {"trained": 9, "kept": 9},
            },
            "metrics": {},
        }
        | changes
    )
    save_bundle(folder, model, config, model_card(config))
    return folder


@pytest.fixture
def photos() -> Photos:
    """Return `shapes_images`."""
    return shapes_images


@pytest.fixture(scope="session")
def photos_module() -> Photos:
    """Return `shapes_images`, for fixtures of a module."""
    return shapes_images


@pytest.fixture(scope="session")
def student_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of one network; read it only."""
    folder = tmp_path_factory.mktemp("student") / "s4gan" / "bundle"
    return write(folder, Student(segmentation_network(1)), "s4gan", "student")


@pytest.fixture(scope="session")
def ensemble_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of two networks that differ; read it only."""
    first, second = segmentation_network(1), segmentation_network(2)
    model = FusedEnsemble((first, second), EnsembleConfig(branches=(first.config, second.config)))
    return write(tmp_path_factory.mktemp("ensemble") / "rrn" / "bundle", model, "rrn", "fused")


@pytest.fixture
def write_classifier(tmp_path: Path) -> WriteBundle:
    """Return a function that writes the bundle of a classifier with changes to its configuration."""
    return lambda **changes: write(
        tmp_path / "mlmt" / "bundle", image_classifier(), "mlmt", "teacher", **changes
    )


@pytest.fixture(scope="session")
def classifier_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of a classifier; read it only."""
    folder = tmp_path_factory.mktemp("classifier") / "mlmt" / "bundle"
    return write(folder, image_classifier(), "mlmt", "teacher")
