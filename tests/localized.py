"""A model with an error localizer that has seen some images and is sure of some pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.conftest import SMALL, make_network
from zoo.bundle.bundle import load_config
from zoo.bundle.weights import save_bundle
from zoo.data.shapes import NAMES, ShapesSource
from zoo.models.config import LocalizedConfig, LocalizerConfig
from zoo.models.deployable import Localized, Student, new_localizer
from zoo.preprocess import normalize, resize_image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from zoo.preprocess import Preprocessing


def shapes_inputs(count: int, preprocessing: Preprocessing) -> Tensor:
    """Return images of `shapes`, (B, 3, H, W) normalized float."""
    source = ShapesSource()
    images = [
        torch.tensor(resize_image(source.read_image(id_), preprocessing.imgsz))
        for id_ in source.ids("val")[:count]
    ]
    return normalize(torch.stack(images).permute(0, 3, 1, 2), preprocessing)


@torch.no_grad()
def make_localized(preprocessing: Preprocessing) -> Localized:
    """Return a network of `make_network` with a localizer whose logits have mean 0 and deviation 2."""
    student = Student(make_network(num_classes=len(NAMES)))
    config = LocalizedConfig(
        segmentation=student.config,
        localizer=LocalizerConfig(encoder=SMALL["encoder"], scores="probabilities"),
    )
    model = Localized(student.eval(), new_localizer(config), config)
    images = shapes_inputs(8, preprocessing)
    logits = model(images)
    model.localizer.train()
    for _ in range(8):
        model.judge(images, logits)
    model.eval()
    judged = model.judge(images, logits)
    last = model.localizer.decoder.segment[-1]
    scale = 2 / judged.std()
    last.weight *= scale
    last.bias.copy_((last.bias - judged.mean()) * scale)
    return model


def write_localized(folder: Path, like: Path) -> Path:
    """Write the bundle of `make_localized` with the settings of another bundle, and return its folder."""
    config = load_config(like)
    model = make_localized(config.preprocessing)
    config = config.model_copy(update={"deployable": model.config, "names": NAMES, "method": "eln"})
    save_bundle(folder, model, config, "# Localized\n")
    return folder
