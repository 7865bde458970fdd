"""Mean and standard deviation come from the encoder's weights; everything takes them from `Preprocessing`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from lightning_fabric import Fabric

from zoo.bundle.bundle import load_config
from zoo.data.partition import make_partition
from zoo.data.shapes import ShapesSource
from zoo.export.options import ExportOptions
from zoo.export.pipeline import export_bundle
from zoo.models.encoder import Encoder
from zoo.predictors.artifact import METADATA_KEY
from zoo.predictors.load import load_predictor
from zoo.preprocess import IMAGENET_MEAN, IMAGENET_STD
from zoo.train.blocks.adversarial import unit_range
from zoo.train.data.loaders import BatchStream
from zoo.train.loop.engine import Engine
from zoo.train.loop.hardware import Hardware
from zoo.train.method import Phase
from zoo.train.methods.table import build_method
from zoo.train.recipe.read import load_recipe
from zoo.train.runs.folder import RunFolder
from zoo.train.session import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoo.train.recipe.schema import Recipe

HALF = (0.5, 0.5, 0.5)
LITE = "tf_efficientnet_lite0"


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Return a function that loads a small recipe of a method around an encoder."""

    def load(encoder: str = LITE, method: str = "s4gan", **changes: Any) -> Recipe:
        small = {
            "network.encoder": encoder,
            "network.decoder_channels": 16,
            "data.imgsz": [64, 64],
            "data.batch_l": 2,
            "data.batch_u": 2,
            "data.workers": 0,
            "data.labeled_view": "weak",
            "validate_every": 0,
        }
        return load_recipe(f"{method}_shapes", changes=small | changes, steps=2)

    return load


@pytest.mark.parametrize(
    ("encoder", "mean", "std"), [(LITE, HALF, HALF), ("resnet18", IMAGENET_MEAN, IMAGENET_STD)]
)
def test_a_run_records_the_normalization_of_its_encoder(
    encoder: str, mean: Any, std: Any, recipe: Callable[..., Recipe]
) -> None:
    assert recipe(encoder).data.mean is None
    resolved = recipe(encoder).for_classes(7)
    assert (resolved.data.mean, resolved.data.std) == (mean, std)
    assert (resolved.preprocessing.mean, resolved.preprocessing.std) == (mean, std)


def test_a_recorded_normalization_stays_whatever_the_weights_say(recipe: Callable[..., Recipe]) -> None:
    loaded = recipe(**{"data.mean": list(IMAGENET_MEAN), "data.std": list(IMAGENET_STD)})
    assert loaded.for_classes(7).preprocessing.mean == IMAGENET_MEAN


def test_padding_has_the_mean_color_of_the_encoder(recipe: Callable[..., Recipe]) -> None:
    loaded = recipe(**{"data.augment.scale": [0.25, 0.25]})
    source = ShapesSource()
    stream = BatchStream(loaded, source, make_partition(source, "4", 0), (Phase("train", 2),))
    image, label = stream[0].image_l, stream[0].label_l
    padding = (label == 255).unsqueeze(1).expand_as(image)
    assert padding.any()
    assert set(image[padding].tolist()) == {128}


@pytest.mark.parametrize("encoder", [LITE, "resnet18"])
def test_a_discriminator_sees_the_pixels_that_the_engine_normalized(
    encoder: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    loaded = recipe(encoder).for_classes(7)
    method = build_method(loaded.method, loaded.network, pretrained=False)
    fabric = Fabric(accelerator="cpu", devices=1)
    engine = Engine(fabric, method, loaded, RunFolder(tmp_path), lambda _: {})
    source = ShapesSource((64, 64))
    batch = BatchStream(loaded, source, make_partition(source, "4", 0), engine.phases)[0]
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (loaded.data.mean, loaded.data.std))
    normalized = engine.train_step.prepared(batch).image_l
    torch.testing.assert_close(normalized, (batch.image_l / 255 - mean) / std)
    seen = unit_range(normalized, "fixed", method.student.encoder, batch.valid_l)
    torch.testing.assert_close(seen, batch.image_l / 255, atol=1e-6, rtol=0)


def test_all_encoders_of_a_run_know_what_images_are_normalized_by(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recorded = {"data.mean": list(IMAGENET_MEAN), "data.std": list(IMAGENET_STD)}  # as version 0.1 did
    loaded = recipe(method="eln", **recorded, **{"method.pretrain_steps": 0}).for_classes(7)
    method = build_method(loaded.method, loaded.network, pretrained=False)
    Engine(Fabric(accelerator="cpu", devices=1), method, loaded, RunFolder(tmp_path), lambda _: {})
    encoders = [module for module in method.modules() if isinstance(module, Encoder)]
    assert len(encoders) == 3  # student, teacher, localizer
    assert {encoder.mean for encoder in encoders} == {IMAGENET_MEAN}


@pytest.mark.slow
def test_bundle_card_graph_and_predictors_take_it_from_the_run(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    metrics = start(recipe(method="supervised"), tmp_path / "run", Hardware(device="cpu"))
    bundle = tmp_path / "run" / "bundle"
    assert metrics["bundle"] == str(bundle)
    config = load_config(bundle)
    assert (config.preprocessing.mean, config.preprocessing.std) == (HALF, HALF)
    processor = json.loads((bundle / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.5] * 3, [0.5] * 3)

    report = export_bundle(bundle, ExportOptions(precision=("fp32",)))
    assert [artifact.parity.passed for artifact in report.artifacts] == [True]
    model = onnx.load(bundle / "model.onnx")
    metadata = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    assert metadata["preprocessing"]["mean"] == [0.5] * 3
    image = ShapesSource((64, 64)).read_image(ShapesSource().ids("val")[0])
    eager, ort = (load_predictor(path) for path in (bundle, bundle / "model.onnx"))
    assert ort.preprocessing == eager.preprocessing == config.preprocessing
    assert (eager.predict(image) == ort.predict(image)).mean() > 0.999
