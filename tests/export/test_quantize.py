from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import onnx
import pytest
import torch

from zoo.bundle.weights import load_bundle
from zoo.export.calibrate import CalibrationImages
from zoo.export.fold import prepare
from zoo.export.layers import ROOT
from zoo.export.quantize import METHODS, Quantizer, body, more_excluded, sensitivities
from zoo.export.to_onnx import check_onnx, export_onnx
from zoo.export.to_tensorrt import Target, build_engine, load_builder, make_profile, plan_engine
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.trt_api import installed_flavors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

pytestmark = pytest.mark.slow
needs_rtx = pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not here")


class Given(NamedTuple):
    quantizer: Quantizer
    photos: np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module", params=["student_bundle", "ensemble_bundle"])
def given(request: Any, tmp_path_factory: Any, photos_module: Any) -> Given:
    deployable, config = load_bundle(request.getfixturevalue(request.param))
    folder = tmp_path_factory.mktemp("int8")
    fields = {"names": config.names, "palette": config.palette, "preprocessing": config.preprocessing}
    fp32, int8 = (
        ArtifactMetadata(**fields, precision=precision, weights_sha256="0" * 64)
        for precision in ("fp32", "int8")
    )
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64))
    export_onnx(prepared.deployable, fp32, folder / "model.onnx")
    images = CalibrationImages(tuple(photos_module(6)), {}, "6 images")
    return Given(Quantizer(folder / "model.onnx", images, int8, folder), photos_module(8))


def nodes(path: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(path).graph.node)


def quantized_convolutions(path: Path) -> set[str]:
    model = onnx.load(path)
    dequantized = {
        output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output
    }
    return {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[0] in dequantized}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flavor", ["cpu", "trt"])
def test_a_quantized_file_gives_almost_the_same_masks(given: Given, method: Any, flavor: Any) -> None:
    path = given.quantizer.build(method, flavor)
    facts = check_onnx(path, given.quantizer.metadata)
    assert facts.output == "mask uint8(b, h, w)"
    artifact = OrtPredictor(path)
    assert artifact.metadata.precision == "int8"
    expected = OrtPredictor(given.quantizer.fp32).run(given.photos)
    assert (artifact.run(given.photos) == expected).mean() > 0.9
    assert path.stat().st_size < 0.5 * given.quantizer.fp32.stat().st_size


@pytest.mark.parametrize(("flavor", "element", "biases"), [("cpu", "uint8", True), ("trt", "int8", False)])
def test_each_flavor_has_the_types_that_its_runtime_takes(
    given: Given, flavor: Any, element: str, biases: bool
) -> None:
    model = onnx.load(given.quantizer.build("minmax", flavor))
    stored = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.data_type).name
        for value in model.graph.initializer
    }
    activations = {stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert activations == {element}
    assert ("int32" in {stored.get(node.input[0]) for node in nodes_of(model, "DequantizeLinear")}) == biases


def nodes_of(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def test_normalization_resize_and_argmax_stay_in_fp32(given: Given) -> None:
    model = onnx.load(given.quantizer.build("minmax", "cpu"))
    quantized = {output for node in nodes_of(model, "DequantizeLinear") for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("Resize", "ArgMax", "Sub", "Div") and node.name.startswith(ROOT):
            assert quantized.isdisjoint(node.input), node.name
    names = body(onnx.load(given.quantizer.fp32))
    assert not any(name.startswith(f"{ROOT}/") for name in names)


def test_layers_that_lose_most_are_left_in_fp32(given: Given) -> None:
    quantizer = given.quantizer
    path = quantizer.build("minmax", "cpu")
    ranked = sensitivities(quantizer.fp32, path, given.photos[:1])
    assert [each.error for each in ranked] == sorted((each.error for each in ranked), reverse=True)
    assert {each.node for each in ranked} == quantized_convolutions(path)
    first = more_excluded(quantizer.fp32, path, (), given.photos[:1])
    assert first == (ranked[0].node,)
    path = quantizer.build("minmax", "cpu", first)
    assert first[0] not in quantized_convolutions(path)
    excluded: tuple[str, ...] | None = first
    while excluded is not None:
        assert len(excluded) <= len(ranked) / 2
        last, path = excluded, quantizer.build("minmax", "cpu", excluded)
        excluded = more_excluded(quantizer.fp32, path, excluded, given.photos[:1])
    assert len(last) > len(ranked) / 4


@needs_rtx
def test_tensorrt_takes_the_file_made_for_it_and_not_the_other(given: Given) -> None:
    api = load_builder((86,))
    profile = make_profile((64, 64), (1, 1, 2))
    plan, info = build_engine(
        api,
        given.quantizer.build("minmax", "trt"),
        plan_engine(
            api,
            given.quantizer.build("minmax", "trt"),
            given.quantizer.metadata,
            Target(sm=(86, 89)),
            profile,
        ),
    )
    assert len(plan) == info.bytes > 0
    with pytest.raises(Exception, match="refused"):
        build_engine(
            api,
            given.quantizer.build("minmax", "cpu"),
            plan_engine(
                api,
                given.quantizer.build("minmax", "cpu"),
                given.quantizer.metadata,
                Target(sm=(86,)),
                profile,
            ),
        )
