"""Models to time: networks at full size with random weights, and the files that are exported of them.

Latency does not depend on the weights. So that the agreement of a backend says something all the same,
BatchNorm knows the statistics of drawn images, and every class is predicted somewhere: a network as it is
initialised would give one class to nearly all pixels, on which any two backends agree.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from zoo.bundle.bundle import WEIGHTS_NAME, BundleConfig, write_json
from zoo.bundle.manifest import sha256
from zoo.bundle.weights import save_bundle
from zoo.classes import Classes
from zoo.data.shapes import ShapesSource
from zoo.errors import ExportError
from zoo.export.fold import prepare
from zoo.export.to_onnx import export_onnx
from zoo.export.to_tensorrt import (
    build_engine,
    build_targets,
    engine_name,
    load_builder,
    make_profile,
    plan_engine,
)
from zoo.models.config import ClassifierConfig, EnsembleConfig, GatedConfig, NetworkConfig, StudentConfig
from zoo.models.deeplab import SegmentationNetwork
from zoo.models.deployable import build_deployable
from zoo.predictors.artifact import ONNX_NAMES, ArtifactMetadata, info_path
from zoo.predictors.backends import ENGINES
from zoo.preprocess import Preprocessing, normalize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from zoo.models.config import DeployableConfig
    from zoo.models.deployable import Deployable
    from zoo.predictors.artifact import Precision, Profile

log = logging.getLogger(__name__)

NUM_CLASSES = 21
SAMPLES, SAMPLE_SIZE = 8, (128, 128)
"""Images that BatchNorm's statistics are of."""

TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": 16,
    "low_level_channels": 8,
    "rates": (1, 2),
    "output_stride": 8,
}
DEEPLABV2: dict[str, Any] = {"architecture": "deeplabv2", "output_stride": 8}


class Exported(NamedTuple):
    """A bundle with its files."""

    bundle: Path
    deployable: Deployable
    missing: dict[str, str]
    """Why a file could not be made, by backend."""


def config_of(model: str) -> DeployableConfig:
    """Return the configuration of a model of the suite.

    `ensemble` and `gated` are made of the ResNet-50 DeepLabv3+ that is also measured alone, so that the
    difference is what they cost.
    """
    tiny = model.endswith("-tiny")
    kind = model.removesuffix("-tiny")
    encoder: dict[str, Any] = TINY if tiny else {"encoder": "resnet101" if "r101" in kind else "resnet50"}
    if kind.startswith("deeplabv2"):
        encoder = encoder | DEEPLABV2 | ({} if tiny else {"rates": (6, 12, 18, 24)})
    network = NetworkConfig(num_classes=NUM_CLASSES, **encoder)
    if kind == "ensemble":
        return EnsembleConfig(branches=(network, network))
    if kind == "gated":
        classifier = ClassifierConfig(
            encoder="test_resnet" if tiny else "resnet101",
            num_classes=NUM_CLASSES,
            imgsz=(64, 64) if tiny else (320, 320),
        )
        return GatedConfig(segmentation=StudentConfig(network=network), classifier=classifier)
    return StudentConfig(network=network)


def write_model(model: str, imgsz: tuple[int, int], folder: Path) -> tuple[Path, Deployable]:
    """Write the bundle of a model and return its folder, and the model.

    Args:
        model: a name of the suite.
        imgsz: height and width of its images.
        folder: of the bundle.
    """
    torch.manual_seed(0)
    deployable = build_deployable(config_of(model))
    images = sample_images()
    settle(deployable, images)
    for network in (each for each in deployable.modules() if isinstance(each, SegmentationNetwork)):
        balance(network, images)
    classes = Classes.of(tuple(f"class-{label}" for label in range(NUM_CLASSES)))
    config = BundleConfig(
        deployable=deployable.config,
        method="random weights",
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=imgsz),
        recipe={"data": {"spec": "shapes"}},
    )
    save_bundle(folder, deployable, config, f"# {model}, random weights\n")
    return folder, deployable


def export_model(
    model: str,
    imgsz: tuple[int, int],
    folder: Path,
    batches: tuple[int, ...],
    precisions: Sequence[Precision] = ("fp32", "fp16"),
) -> Exported:
    """Write a bundle with ONNX files, and an engine of the last if there is a GPU and TensorRT for it.

    Nothing is compared with the model here, as the benchmark tells the agreement of every row.

    Args:
        model: a name of the suite.
        imgsz: height and width.
        folder: of the bundle.
        batches: that an engine is to take; it is built to be fastest at the first.
        precisions: of the files.
    """
    log.info("making %s", model)
    bundle, deployable = write_model(model, imgsz, folder)
    config = BundleConfig.model_validate_json((bundle / "config.json").read_bytes())
    prepared = prepare(deployable.eval(), sample_images()[:2])
    missing: dict[str, str] = {}
    for precision in precisions:
        log.info("exporting %s in %s", model, precision)
        metadata = ArtifactMetadata(
            names=config.names,
            palette=config.palette,
            preprocessing=config.preprocessing,
            precision=precision,
            weights_sha256=sha256(bundle / WEIGHTS_NAME),
        )
        try:
            export_onnx(prepared.deployable, metadata, bundle / ONNX_NAMES[precision])
        except ExportError as error:
            missing[f"ort:{precision}"] = str(error)
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        try:
            write_engine(bundle, metadata, make_profile(imgsz, _span(batches)), 10 * major + minor)
        except ExportError as error:
            missing["trt"] = str(error)
    return Exported(bundle, deployable.eval(), missing)


def _span(batches: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the smallest batch size, the first, which an engine is to be fastest at, and the largest."""
    return min(batches), batches[0], max(batches)


def write_engine(bundle: Path, metadata: ArtifactMetadata, profile: Profile, sm: int) -> None:
    """Build the engine of an ONNX file into its bundle.

    Args:
        bundle: its folder.
        metadata: of the file.
        profile: the shapes that it takes.
        sm: compute capability of the GPU that is here, which TensorRT-RTX wants to know.

    Raises:
        ExportError: TensorRT is not installed, or refuses.
    """
    api = load_builder(())
    target = build_targets(api, (sm,) if api.flavor == "rtx" else ())[0]
    onnx = bundle / ONNX_NAMES[metadata.precision]
    log.info("building an engine with %s", api.name)
    plan, info = build_engine(api, onnx, plan_engine(api, onnx, metadata, target, profile))
    path = bundle / ENGINES / engine_name(info)
    path.parent.mkdir()
    path.write_bytes(plan)
    write_json(info_path(path), info.model_dump(mode="json"))


def sample_images() -> Tensor:
    """Return drawn images, (B, 3, H, W) float, normalised."""
    source = ShapesSource(SAMPLE_SIZE)
    images = np.stack([source.read_image(id_) for id_ in source.ids("val")[:SAMPLES]])
    planes: Tensor = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), Preprocessing(imgsz=SAMPLE_SIZE))
    return planes


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of images, and leave the model in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    model.train()
    for _ in range(2):
        model(images)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def balance(network: SegmentationNetwork, images: Tensor) -> None:
    """Scale the last layer so that the logits of every class have mean 0 and deviation 1 over images."""
    logits = network(images).logits
    mean, std = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
    decoder: Any = network.decoder
    last = [decoder.segment[-1]] if hasattr(decoder, "segment") else list(decoder.branches)
    for conv in last:
        conv.weight /= std.view(-1, 1, 1, 1)
        conv.bias /= std
    last[0].bias -= mean / std
