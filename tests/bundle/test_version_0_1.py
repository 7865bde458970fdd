"""Bundles, runs and artifacts of version 0.1; `tests/fixtures/v0.1/make.py` tells how its files were made."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle, load_classifier, save_bundle
from zoo.card.card import model_card
from zoo.models.config import NetworkConfig, nest_decoder
from zoo.predictors.artifact import METADATA_KEY, info_path, read_engine_info
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.runtimes.ort import metadata_of, open_session
from zoo.predictors.tags import TagPredictor
from zoo.preprocess import IMAGENET_MEAN, IMAGENET_STD
from zoo.train.compare.shared import flat
from zoo.train.loop.checkpoint import load_checkpoint
from zoo.train.loop.hardware import Hardware
from zoo.train.methods.table import build_method
from zoo.train.recipe.removed import REMOVED
from zoo.train.runs.folder import RunFolder
from zoo.train.session import resume
from zoo.train.strip import strip

if TYPE_CHECKING:
    from types import ModuleType

FILES = Path(__file__).parents[1] / "fixtures" / "v0.1"
SEGMENTING = ["student", "student-v2", "ensemble", "gated"]
RUNS = ["supervised", "s4gan", "rrn", "mlmt", "eln"]


def _load_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_v0_1", FILES / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load_make()


def read(*parts: str) -> Any:
    return json.loads(FILES.joinpath(*parts).read_text())


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    """Return a function that writes a bundle as version 0.1 did."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(FILES / "bundles" / name, folder)
        save_file(make.weights(read("bundles", name, "state.json")), folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Return a function that writes a run as version 0.1 did, after two of its four steps."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(FILES / "runs" / name, folder)
        kept = read("runs", name, "checkpoint.json")
        recipe, _ = RunFolder(folder).read_recipe()
        method = build_method(recipe.method, recipe.network, pretrained=False)
        method.load_state_dict(make.weights(kept["method"]))
        optimizers = method.optimizers()
        for optimizer, saved in zip(optimizers, kept["optimizers"], strict=True):
            for key, shapes in saved["state"].items():
                moments = {name: torch.full(shape, 1e-3) for name, shape in shapes.items()}
                saved["state"][key] = moments
            saved["state"] = {int(key): value for key, value in saved["state"].items()}
            optimizer.load_state_dict(saved)
        state = {
            "step": 2,
            "method": make.weights(kept["method"]),
            "optimizers": kept["optimizers"],
            "rng": [torch.get_rng_state()],
            "extra": kept["extra"],
        }
        torch.save(state, folder / "last.ckpt")
        return folder

    return write


@pytest.mark.parametrize("name", SEGMENTING)
def test_a_bundle_predicts_the_mask_of_version_0_1(name: str, bundle: Any) -> None:
    model, config = load_bundle(bundle(name))
    assert make.shapes_of(model.state_dict()) == read("bundles", name, "state.json")
    predictor = EagerPredictor(model, config)
    (mask,) = predictor.run(make.image()[None])
    assert np.array_equal(mask, np.asarray(Image.open(FILES / "bundles" / name / "mask.png")))


def test_a_classifier_gives_the_probabilities_of_version_0_1(bundle: Any) -> None:
    model, config = load_classifier(bundle("classifier"))
    assert make.shapes_of(model.state_dict()) == read("bundles", "classifier", "state.json")
    expected = np.array(read("bundles", "classifier", "prob.json"))
    np.testing.assert_allclose(TagPredictor(model, config).predict(make.image()), expected, rtol=1e-5)


@pytest.mark.parametrize("name", [*SEGMENTING, "classifier"])
def test_a_bundle_is_written_again_in_the_format_of_today(name: str, bundle: Any, tmp_path: Path) -> None:
    folder = bundle(name)
    assert read("bundles", name, "config.json")["format"] == 1
    model, config = (load_classifier if name == "classifier" else load_bundle)(folder)
    assert config.format == 2
    save_bundle(tmp_path / "again", model, config, model_card(config))
    assert load_config(tmp_path / "again") == config


def test_the_settings_of_a_decoder_are_moved_to_it() -> None:
    network = read("bundles", "student", "config.json")["deployable"]["network"]
    config = NetworkConfig.model_validate(network)
    assert config.decoder.model_dump(mode="json") == {
        "name": "deeplabv3plus",
        "decoder_channels": 16,
        "aspp": "projected",
        "rates": [1, 2],
        "low_level_channels": 8,
        "dropout": {"aspp": 0.1, "fuse_1": 0.1, "fuse_2": 0.1},
        "channel_dropout": False,
        "head": "mlp",
        "separate_embedding": False,
    }
    assert (config.encoder, config.num_classes, config.output_stride) == ("test_resnet", 7, 8)


def test_settings_that_a_decoder_never_used_are_dropped() -> None:
    network = read("bundles", "student-v2", "config.json")["deployable"]["network"]
    assert "low_level_channels" in network
    assert NetworkConfig.model_validate(network).decoder.model_dump(mode="json") == {
        "name": "deeplabv2",
        "decoder_channels": 16,
        "rates": [1, 2],
    }


def test_a_network_of_today_is_left_as_it_is() -> None:
    network = NetworkConfig(decoder={"name": "deeplabv2"}).model_dump()
    assert nest_decoder(network) == network


@pytest.mark.parametrize("name", RUNS)
def test_a_run_keeps_its_recipe_and_the_normalization_of_version_0_1(name: str, run: Any) -> None:
    folder = run(name)
    recipe, classes = RunFolder(folder).read_recipe()
    old = flat(read("runs", name, "recipe.json")["recipe"])
    new = flat(recipe.model_dump(mode="json"))
    unused = {"aspp", "low_level_channels", "dropout", "channel_dropout", "head", "separate_embedding"}
    removed = REMOVED.get(recipe.method.name, {})
    for key, value in old.items():
        place, *rest = key.removeprefix("network.").split(".")
        if key == "network.architecture":
            assert new["network.decoder.name"] == value
        elif key.startswith("network.") and f"network.decoder.{'.'.join([place, *rest])}" in new:
            assert new[f"network.decoder.{'.'.join([place, *rest])}"] == value
        elif key.startswith("network.") and place in unused:
            assert recipe.network.decoder.name == "deeplabv2"
        elif key == "method.normalisation":
            assert new["method.normalization"] == value
        elif key.removeprefix("method.") in removed:
            assert value == removed[key.removeprefix("method.")]
            assert key not in new
        else:
            assert new[key] == value
    preprocessing = recipe.preprocessing
    assert (preprocessing.mean, preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert len(classes.names) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_resumed_for_its_last_two_steps_and_stripped(name: str, run: Any) -> None:
    folder = run(name)
    kept = read("runs", name, "checkpoint.json")
    metrics = resume(folder, name, Hardware(device="cpu"))
    assert sum(row[0] > 2 for row in metrics["curve"]) == 2
    state = load_checkpoint(folder / "last.ckpt")
    assert state["step"] == 4
    assert make.shapes_of(state["method"]) == kept["method"]
    config = load_config(strip(folder))
    assert (config.preprocessing.mean, config.preprocessing.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_an_onnx_file_says_what_it_said(tmp_path: Path) -> None:
    text = (FILES / "onnx.json").read_text().strip()
    image, mask = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["b", "h", "w", 3])
        for name in ("image", "mask")
    )
    copied = onnx.helper.make_node("Identity", ["image"], ["mask"])
    graph = onnx.helper.make_graph([copied], "copy", [image], [mask])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    model.metadata_props.add(key=METADATA_KEY, value=text)
    onnx.save(model, tmp_path / "model.onnx")
    path = tmp_path / "model.onnx"
    metadata = metadata_of(open_session(path, "cpu"), path)
    assert json.loads(metadata.model_dump_json()) == json.loads(text) | {"smallest": None}


def test_the_file_beside_an_engine_says_what_it_said(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    shutil.copy(FILES / "engine.json", info_path(engine))
    expected = read("engine.json")
    expected["metadata"]["smallest"] = None
    assert json.loads(read_engine_info(engine).model_dump_json()) == expected
