from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from zoo.bundle.weights import load_bundle
from zoo.export.graph.fold import prepare
from zoo.export.graph.layers import LOGITS, NORMALIZED, LayerError, find_departure, layer_errors
from zoo.export.graph.to_onnx import export_onnx
from zoo.predictors.artifact import ArtifactMetadata

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.bundle.bundle import BundleConfig
    from zoo.models.deployable import Deployable

pytestmark = pytest.mark.slow


class Given(NamedTuple):
    path: Path
    deployable: Deployable
    config: BundleConfig
    photos: np.ndarray[Any, np.dtype[np.uint8]]

    def errors(self, path: Path) -> Any:
        return layer_errors(path, self.deployable, self.config.preprocessing, self.photos)


@pytest.fixture(scope="module", params=["student_bundle", "ensemble_bundle"])
def given(request: Any, tmp_path_factory: Any, photos_module: Any) -> Given:
    deployable, config = load_bundle(request.getfixturevalue(request.param))
    deployable = prepare(deployable, torch.randn(1, 3, 64, 64)).deployable
    path = tmp_path_factory.mktemp("layers") / "model.onnx"
    fields = {"names": config.names, "palette": config.palette, "preprocessing": config.preprocessing}
    metadata = ArtifactMetadata(**fields, precision="fp32", weights_sha256="0" * 64)
    export_onnx(deployable, metadata, path)
    return Given(path, deployable, config, photos_module(2))


def edited(given: Given, tmp_path: Path, edit: Any) -> Path:
    model = onnx.load(given.path)
    edit(model.graph)
    onnx.save(model, tmp_path / "edited.onnx")
    return tmp_path / "edited.onnx"


def test_a_right_file_has_no_layer_that_departs(given: Given) -> None:
    errors = given.errors(given.path)
    assert find_departure(errors, "fp32") is None
    layers = [each.layer for each in errors]
    assert (layers[0], layers[-1]) == (NORMALIZED, LOGITS)
    convolutions = [name for name, module in given.deployable.named_modules() if "Conv" in str(type(module))]
    assert set(convolutions) <= set(layers)
    assert max(each.error for each in errors) < 1e-5


def test_a_wrong_mean_departs_before_the_first_layer(given: Given, tmp_path: Path) -> None:
    def shift(graph: onnx.GraphProto) -> None:
        (sub,) = [node for node in graph.node if node.name == "graph/Sub"]
        (mean,) = [value for value in graph.initializer if value.name == sub.input[1]]
        mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + np.float32(20), mean.name))

    departure = find_departure(given.errors(edited(given, tmp_path, shift)), "fp32")
    assert departure is not None
    assert departure.layer == NORMALIZED
    assert "Sub" in departure.operators


def test_a_wrong_resize_is_named_with_the_layer_that_it_feeds(given: Given, tmp_path: Path) -> None:
    def nearest(graph: onnx.GraphProto) -> None:
        resize = next(node for node in graph.node if node.op_type == "Resize")
        (mode,) = [attribute for attribute in resize.attribute if attribute.name == "mode"]
        mode.s = b"nearest"

    departure = find_departure(given.errors(edited(given, tmp_path, nearest)), "fp32")
    assert departure is not None
    assert "decoder.fuse.0" in departure.layer
    assert departure.operators == ("Resize", "Concat", "Conv")


def test_a_wrong_weight_is_named(given: Given, tmp_path: Path) -> None:
    def double(graph: onnx.GraphProto) -> None:
        conv = [node for node in graph.node if node.op_type == "Conv"][5]
        (weight,) = [value for value in graph.initializer if value.name == conv.input[1]]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))

    departure = find_departure(given.errors(edited(given, tmp_path, double)), "fp32")
    assert departure is not None
    assert (
        f"{departure.layer}/Conv"
        == [n.name for n in onnx.load(given.path).graph.node if n.op_type == "Conv"][5]
    )


def test_names_of_nodes_tell_their_module_and_are_unlike(given: Given) -> None:
    names = [node.name for node in onnx.load(given.path).graph.node]
    assert len(set(names)) == len(names)
    modules = dict(given.deployable.named_modules())
    for name in names:
        module = name.rpartition("/")[0]
        assert module == "graph" or module in modules


def test_an_error_that_is_no_number_is_said_in_words() -> None:
    assert str(LayerError(NORMALIZED, (), float("inf"))) == "normalization, an output of another shape"
    assert (
        str(LayerError("a.b", ("Conv", "Relu"), float("nan")))
        == "a.b (Conv, Relu), values that are not finite"
    )
    assert str(LayerError("a.b", ("Conv",), 0.25)) == "a.b (Conv), relative error 0.25"
