"""Artifacts that give a confidence beside the mask, of every kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pytest
import torch

from tests.export.conftest import Network
from zoo.bundle.weights import load_bundle
from zoo.classes import Classes
from zoo.errors import ExportError
from zoo.export.compose import Composition, compose
from zoo.export.graph.fold import prepare
from zoo.export.graph.to_onnx import check_onnx, export_onnx
from zoo.export.to_tensorrt import Target, build_engine, load_builder, make_profile, plan_engine
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.base import Prediction
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.trt_api import installed_flavors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import OutputKind, Precision

    Photos = Callable[..., NDArray[np.uint8]]

needs_rtx = pytest.mark.skipif("rtx" not in installed_flavors(), reason="tensorrt_rtx is not here")

SIZES = [(64, 64), (48, 64), (53, 37)]
KINDS = ["student", "ensemble", "gated"]


class Exported(NamedTuple):
    path: Path
    metadata: ArtifactMetadata
    reference: EagerPredictor


def metadata_of(bundle: Path, precision: Precision, output: OutputKind) -> ArtifactMetadata:
    _, config = load_bundle(bundle)
    return ArtifactMetadata(
        names=config.names,
        palette=config.palette,
        preprocessing=config.preprocessing,
        precision=precision,
        output=output,
        weights_sha256="0" * 64,
    )


def many_classes(bundle: Path, count: int) -> ArtifactMetadata:
    classes = Classes.of(tuple(map(str, range(count))))
    change = {"names": classes.names, "palette": classes.palette}
    return metadata_of(bundle, "fp32", "mask+confidence").model_copy(update=change)


@pytest.fixture(scope="module", params=KINDS)
def exported(
    request: pytest.FixtureRequest,
    student_bundle: Path,
    ensemble_bundle: Path,
    classifier_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    """Return the fp32 file of a model of each kind, and the model."""
    folder = tmp_path_factory.mktemp(request.param)
    bundle = {"student": student_bundle, "ensemble": ensemble_bundle}.get(request.param)
    if bundle is None:
        gate = Composition(gate=classifier_bundle, gate_threshold=0.5)
        bundle = compose(student_bundle, gate, folder / "bundle", lambda _: None)
    deployable, config = load_bundle(bundle)
    metadata = metadata_of(bundle, "fp32", "mask+confidence")
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64))
    export_onnx(prepared.deployable, metadata, folder / "model.onnx")
    return Exported(folder / "model.onnx", metadata, EagerPredictor(deployable, config))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [OrtPredictor, OpenVinoPredictor])
def test_mask_and_confidence_are_the_eager_models(
    exported: Exported, photos: Photos, runtime: Callable[..., OrtPredictor]
) -> None:
    if runtime is OpenVinoPredictor:
        pytest.importorskip("openvino")
    artifact = runtime(exported.path, threads=1)
    for size in SIZES:
        images = photos(4, size)
        got, expected = (
            Prediction(artifact.infer(images, artifact.available)),
            Prediction(exported.reference.infer(images, exported.reference.available)),
        )
        assert got.confidence is not None
        assert expected.confidence is not None
        assert (got.mask != expected.mask).sum() <= 2
        assert np.abs(got.confidence.astype(int) - expected.confidence).max() <= 1
        assert len(np.unique(got.confidence)) > 30


@pytest.mark.slow
def test_both_outputs_have_names_types_and_dynamic_sizes(exported: Exported) -> None:
    facts = check_onnx(exported.path, exported.metadata)
    assert facts.output == "mask uint8(b, h, w) and confidence uint8(b, h, w)"
    mask = exported.metadata.model_copy(update={"output": "mask"})
    with pytest.raises(
        ExportError, match=r"and confidence uint8\(b, h, w\) in opset 18, expected .*b, h, w\) in"
    ):
        check_onnx(exported.path, mask)


@pytest.mark.slow
@needs_rtx
def test_tensorrt_builds_both_outputs(exported: Exported) -> None:
    api, target, profile = load_builder((86,)), Target(sm=(86, 120)), make_profile((64, 64), (1, 1, 2))
    planned = plan_engine(api, exported.path, exported.metadata, target, profile)
    plan, info = build_engine(api, exported.path, planned)
    assert len(plan) == info.bytes > 10_000


@pytest.mark.slow
@needs_rtx
def test_tensorrt_builds_an_int32_mask_beside_a_uint8_confidence(
    student_bundle: Path, photos: Photos, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    metadata = many_classes(student_bundle, 300)
    facts = export_onnx(Network(300), metadata, tmp_path / "model.onnx")
    assert facts.output == "mask int32(b, h, w) and confidence uint8(b, h, w)"
    mask, confidence = Prediction(
        OrtPredictor(tmp_path / "model.onnx").infer(photos(2), ("mask", "confidence"))
    )
    assert confidence is not None
    assert (mask.dtype, confidence.dtype) == (np.int32, np.uint8)
    assert mask.max() > 255
    api, path = load_builder((86,)), tmp_path / "model.onnx"
    planned = plan_engine(api, path, metadata, Target(sm=(86,)), make_profile((64, 64), (1, 1, 1)))
    assert len(build_engine(api, path, planned)[0]) > 1000


@pytest.mark.slow
def test_half_precision_stops_before_the_softmax(
    student_bundle: Path, photos: Photos, tmp_path: Path
) -> None:
    deployable, config = load_bundle(student_bundle)
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64))
    path = tmp_path / "model.onnx"
    export_onnx(prepared.deployable, metadata_of(student_bundle, "fp16", "mask+confidence"), path)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    (exponential,) = (node for node in model.graph.node if node.op_type == "Exp")
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert types[exponential.output[0]] == onnx.TensorProto.FLOAT
    images = photos(4)
    got = Prediction(OrtPredictor(path, threads=1).infer(images, ("mask", "confidence"))).confidence
    expected = Prediction(EagerPredictor(deployable, config).infer(images, ("mask", "confidence"))).confidence
    assert got is not None
    assert expected is not None
    assert np.abs(got.astype(int) - expected).max() <= 3
