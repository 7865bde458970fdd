from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo.bundle.bundle import load_config
from zoo.bundle.weights import load_bundle
from zoo.classes import Classes
from zoo.errors import ExportError
from zoo.export.fold import prepare
from zoo.export.parity import Difference, Images, compare, compare_masks, parity_shapes
from zoo.export.to_onnx import PlainAttention, check_onnx, export_onnx
from zoo.export.tolerance import GATES, Tolerance
from zoo.models.config import NetworkConfig, StudentConfig
from zoo.models.deployable import Deployable, Student
from zoo.models.segmentation import SegmentationNetwork
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.eager import EagerPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = [
    (1, 64, 64),
    (1, 96, 48),  # portrait
    (1, 48, 96),  # landscape
    (1, 51, 57),
    (2, 33, 200),
    (3, 64, 64),
    (5, 32, 32),
    (1, 131, 97),  # the sizes of the sample, turned
]


# random weights leave many pixels undecided, more than the gates of trained models allow in half precision
NEAR = {  # fp16 of random weights: many near ties
    "fp32": Tolerance(min_agreement=0.9999, max_margin=1e-3),
    "fp16": Tolerance(min_agreement=0.99, max_margin=5e-3),
}


class Exported(NamedTuple):
    path: Path
    metadata: ArtifactMetadata
    reference: EagerPredictor


def metadata_of(num_classes: int, precision: str = "fp32", output: str = "mask") -> ArtifactMetadata:
    classes = Classes.of(tuple(f"class-{label}" for label in range(num_classes)))
    return ArtifactMetadata(
        names=classes.names,
        palette=classes.palette,
        preprocessing=Preprocessing(imgsz=(64, 64), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
        precision=precision,
        output=output,
        weights_sha256="0" * 64,
    )


class Network(Deployable):
    """As little as can be exported."""

    config = StudentConfig(network=NetworkConfig())

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, stride=4, padding=1)

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


class Aspect(Network):
    """Exported without a word, and wrong for portraits: a branch on a size is taken once, in the exporter."""

    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits if images.shape[2] < images.shape[3] else -logits


class FixedKernel(Network):
    def decoder_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images) + nn.functional.avg_pool2d(images, (97, 131))[:, :2]
        return logits


@pytest.fixture(
    scope="module",
    params=[
        ("deeplabv3plus", "fp32", "mask"),
        ("deeplabv3plus", "fp16", "logits"),
        ("deeplabv2", "fp16", "mask"),
        ("deeplabv2", "fp32", "logits"),
    ],
    ids="-".join,
)
def exported(request: Any, make_bundle: Any, tmp_path_factory: Any) -> Exported:
    architecture, precision, output = request.param
    folder = tmp_path_factory.mktemp("exported")
    deployable, config = load_bundle(make_bundle(folder, architecture=architecture))
    metadata = metadata_of(7, precision, output)
    config = config.model_copy(update={"preprocessing": metadata.preprocessing})
    reference = EagerPredictor(deployable, config)
    prepared = prepare(deployable, torch.randn(1, 3, 64, 64))
    export_onnx(prepared.deployable, metadata, folder / "model.onnx")
    return Exported(folder / "model.onnx", metadata, reference)


def smooth_images(shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    torch.manual_seed(1)
    noise = torch.rand(shape[0], 3, 9, 9) * 255
    images = nn.functional.interpolate(noise, shape[1:], mode="bilinear", align_corners=True)
    return images.permute(0, 2, 3, 1).to(torch.uint8).numpy()


@pytest.mark.slow
def test_the_masks_are_the_eager_models_at_every_shape(exported: Exported) -> None:
    artifact = OrtPredictor(exported.path, threads=1)
    differing = pixels = 0
    margin = 0.0
    seen: set[int] = set()
    for shape in SHAPES:
        images = smooth_images(shape)
        mask = artifact.run(images)
        difference = compare_masks(exported.reference.logits(images), mask)
        differing, pixels = differing + difference.differing, pixels + mask.size
        margin = max(margin, difference.margin)
        seen |= set(np.unique(mask).tolist())
    agreement = 1 - differing / pixels
    total = Difference(shape=(1, 1, pixels), agreement=agreement, differing=differing, margin=margin)
    assert total.passes(NEAR[exported.metadata.precision])
    assert len(seen) > 3


@pytest.mark.slow
def test_logits_are_the_eager_models(exported: Exported) -> None:
    images = smooth_images((2, 51, 70))
    logits = OrtPredictor(exported.path, threads=1).logits(images)
    if exported.metadata.output == "mask":
        assert logits is None
        return
    tolerance = {"fp32": 1e-4, "fp16": 3e-2}[exported.metadata.precision]
    assert logits is not None
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exported.reference.logits(images), atol=tolerance)


@pytest.mark.slow
def test_the_file_tells_nothing_of_the_code_it_was_made_from(exported: Exported) -> None:
    content = exported.path.read_bytes()
    for trace in (b"site-packages", b"stack_trace", b".py", b"/zoo/", b"torch.nn"):
        assert trace not in content


@pytest.mark.slow
def test_the_file_holds_all_that_prediction_needs(exported: Exported) -> None:
    assert OrtPredictor(exported.path).metadata == exported.metadata
    model = onnx.load(exported.path)
    assert model.opset_import[0].version == 18
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    halves = {"fp32": 0, "fp16": 50}[exported.metadata.precision]
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert len(weights) >= halves
    assert bool(weights) is bool(halves)


@pytest.mark.slow
def test_more_classes_than_a_byte_can_hold_give_an_int32_mask(tmp_path: Path) -> None:
    network = Network()
    network.conv = nn.Conv2d(3, 300, 3, stride=4, padding=1)
    facts = export_onnx(network, metadata_of(300), tmp_path / "model.onnx")
    assert (facts.input, facts.output) == ("image uint8(b, h, w, 3)", "mask int32(b, h, w)")
    mask = OrtPredictor(tmp_path / "model.onnx").run(smooth_images((2, 40, 44)))
    assert mask.shape == (2, 40, 44)
    assert mask.max() < 300


@pytest.mark.slow
def test_the_exporter_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(Network(), metadata_of(2), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_network_that_exports_to_something_else_is_caught_by_parity(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    metadata = metadata_of(2)
    config = load_config(tiny_bundle).model_copy(update={"preprocessing": metadata.preprocessing})
    torch.manual_seed(0)
    network = Aspect()
    export_onnx(network, metadata, tmp_path / "model.onnx")
    images = Images(tuple(smooth_images((4, 64, 64))), "noise")
    parity = compare(
        OrtPredictor(tmp_path / "model.onnx"),
        EagerPredictor(network, config),
        images,
        parity_shapes((64, 64), 2),
        GATES["fp16"],
    )
    wrong = [difference.shape for difference in parity.differences if difference.agreement < 0.5]
    assert (1, 64, 48) in wrong
    assert (1, 48, 64) not in wrong
    assert not parity.passed


@pytest.mark.slow
def test_a_network_of_one_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be exported to ONNX .* any batch size, height and width"):
        export_onnx(FixedKernel(), metadata_of(2), tmp_path / "model.onnx")


def test_a_graph_with_a_frozen_size_is_refused(write_onnx: Any, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", height=97)
    with pytest.raises(ExportError, match=r"image uint8\(b, 97, w, 3\).*froze a size"):
        check_onnx(path, metadata_of(2))


def test_a_graph_with_another_output_than_promised_is_refused(write_onnx: Any, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"mask uint8\(b, h, w\) .*expected .*logits float32\(b, 2, h, w\)"):
        check_onnx(path, metadata_of(2, output="logits"))


@pytest.mark.parametrize("kind", ["none", "float", "bool"])
@pytest.mark.parametrize("dimensions", [4, 5])
def test_attention_is_computed_as_pytorch_does_it(dimensions: int, kind: str) -> None:
    query, key, value = torch.randn(3, 2, 3, 4, 5, 6)[(slice(None), 0)[: 6 - dimensions]].unbind()
    masks = {"none": None, "float": torch.randn(5, 5), "bool": torch.ones(5, 5).tril().bool()}
    expected = scaled_dot_product_attention(query, key, value, masks[kind], scale=0.3)
    with PlainAttention():
        got = scaled_dot_product_attention(query, key, value, attn_mask=masks[kind], scale=0.3)
        assert torch.allclose(got, expected, atol=1e-6)


def test_a_swin_encoder_of_any_size_is_refused_at_once_with_the_ways_out(tmp_path: Path) -> None:
    network = SegmentationNetwork(NetworkConfig(encoder="swin_s3_tiny_224", num_classes=3))
    with pytest.raises(ExportError, match=r"swin_s3_tiny_224 at any .*encoder_size.*--backend eager"):
        export_onnx(Student(network), metadata_of(3), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
