"""ONNX files: a linear classifier of pixels with every kind of output, and exported networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from tests.bundles import metadata_of
from zoo.bundle.weights import load_bundle
from zoo.classes import Classes
from zoo.export.graph.fold import prepare
from zoo.export.graph.to_onnx import export_onnx
from zoo.export.parity.compare import NEAR_TIE, compare_masks
from zoo.predictors.artifact import METADATA_KEY, ArtifactMetadata
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.artifact import OutputKind, Precision
    from zoo.predictors.eager import EagerPredictor

    Images = NDArray[np.uint8]

    WriteLinear = Callable[..., Path]

SCALE = 1 / 64  # a power of two: nothing is rounded
ELEMENT_TYPES = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def weights(num_classes: int) -> NDArray[np.float32]:
    """Return the weight of red, green and blue in the logit of each class, (K, 3)."""
    return np.random.default_rng(num_classes).normal(0, 0.02, (num_classes, 3)).astype(np.float32)


def linear_logits(images: NDArray[np.uint8], num_classes: int = 3) -> NDArray[np.float32]:
    """Return the (B, K, H, W) logits that the file computes."""
    logits: NDArray[np.float32] = np.einsum("bhwc,kc->bkhw", images.astype(np.float32), weights(num_classes))
    return logits


def write_linear_onnx(
    path: Path,
    output: OutputKind = "mask+confidence",
    num_classes: int = 3,
    precision: Precision = "fp32",
    height: int | str = "h",
) -> Path:
    """Write an ONNX file of one convolution that looks at single pixels and return its path.

    Args:
        path: of the file.
        output: what it gives.
        num_classes: K.
        precision: that it says it has.
        height: a number freezes the dimension.
    """
    classes = Classes.of(tuple(f"class-{label}" for label in range(num_classes)))
    metadata = ArtifactMetadata(
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=(64, 64)),
        precision=precision,
        output=output,
        weights_sha256="0" * 64,
    )
    kernel = np.zeros((num_classes, 3, 3, 3), np.float32)  # 3x3: OpenVINO turns 1x1 into something else
    kernel[:, :, 1, 1] = weights(num_classes) / SCALE
    constants = {"kernel": kernel, "axis": np.array([1]), "full": np.float32(255)}
    constants["scale"] = np.float32(SCALE)
    mask_type = ELEMENT_TYPES[metadata.mask_dtype]
    nodes = [
        make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        make_node("Mul", ["pixels", "scale"], ["scaled"]),
        make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        make_node("Conv", ["planes", "kernel"], ["logits"], name="conv", pads=[1, 1, 1, 1]),
    ]
    of_mask = [
        make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        make_node("Cast", ["label"], ["mask"], to=mask_type),
    ]
    of_confidence = [
        make_node("ReduceMax", ["logits", "axis"], ["largest"], keepdims=1),
        make_node("Sub", ["logits", "largest"], ["relative"]),
        make_node("Exp", ["relative"], ["odds"]),
        make_node("ReduceSum", ["odds", "axis"], ["total"], keepdims=0),
        make_node("Div", ["full", "total"], ["share"]),
        make_node("Round", ["share"], ["rounded"]),
        make_node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
    ]
    names = {each.name for each in metadata.outputs}
    nodes += [*of_mask] * ("mask" in names) + [*of_confidence] * ("confidence" in names)
    graph = make_graph(
        nodes,
        "linear",
        [make_tensor_value_info("image", TensorProto.UINT8, ["b", height, "w", 3])],
        [
            make_tensor_value_info(
                each.name, ELEMENT_TYPES[each.dtype], list(each.size("b", str(height), "w"))
            )
            for each in metadata.outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key=METADATA_KEY, value=metadata.model_dump_json())
    onnx.save(model, path)
    return path


@pytest.fixture
def write_linear() -> WriteLinear:
    """Return `write_linear_onnx`."""
    return write_linear_onnx


@pytest.fixture
def linear() -> Callable[..., NDArray[np.float32]]:
    """Return `linear_logits`."""
    return linear_logits


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """Return (2, 33, 47, 3) random images."""
    return np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3), np.uint8)


# --- a network and its exported file, and what runs it ---

STRIDES = {"test_resnet": 8, "convnext_atto": 16}
"""Output stride by encoder."""

FILES: dict[str, Callable[[Path], Any]] = {
    "ort": lambda path: OrtPredictor(path, threads=1),
    "ort bound": lambda path: OrtCudaPredictor(path, "cpu"),
    "openvino": lambda path: OpenVinoPredictor(path, threads=1),
    "openvino, 2 threads": lambda path: OpenVinoPredictor(path, threads=2),
}


class Made(NamedTuple):
    """A bundle and an exported file of a network."""

    encoder: str
    bundle: Path
    onnx: Path


@pytest.fixture(scope="session", params=STRIDES)
def made(
    request: pytest.FixtureRequest,
    make_bundle: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """Return a network with its file, one for each of `STRIDES`."""
    folder = tmp_path_factory.mktemp("made")
    bundle = make_bundle(folder / "bundle", encoder=request.param, output_stride=STRIDES[request.param])
    deployable, _ = load_bundle(bundle)
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64)).deployable
    export_onnx(prepared, metadata_of(bundle), folder / "model.onnx")
    return Made(request.param, bundle, folder / "model.onnx")


def assert_same(reference: EagerPredictor, batch: Images, mask: NDArray[Any]) -> None:
    """Check that a mask is the reference's, up to near ties."""
    assert mask.shape == batch.shape[:3]
    difference = compare_masks(reference.logits(batch), mask)
    assert difference.margin < NEAR_TIE, (batch.shape, difference)
