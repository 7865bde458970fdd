"""Files that take photos of any size, and the recipe of docs/export.md for those that do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.bundle.manifest import read_manifest
from zoo.cli import app
from zoo.errors import ExportError, InvalidImageError
from zoo.export.graph.photo import _before, export_photo
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.preprocess import Resize

    Images = NDArray[np.uint8]

SIZES = ((64, 64), (200, 300), (40, 50), (131, 700), (333, 297), (31, 900), (1, 1), (5, 3), (768, 1024))
HARD = ((1204, 218), (2000, 40), (22, 84), (32, 20), (3, 1500), (1500, 3), (16, 78), (127, 129), (1, 900))
"""Tall photos, whose axes Pillow 13 resizes in another order, and sizes with many values at a tie."""

PAGE = Path(__file__).resolve().parents[3] / "docs" / "export.md"


def photo(size: tuple[int, int], noise: int = 30) -> Images:
    """Return a smooth photo with noise up to a value."""
    random = np.random.default_rng(size)
    cells = random.integers(30, 200, (9, 9, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC))
    return smooth.clip(0, 225) + random.integers(0, noise, smooth.shape, np.uint8)


def metadata_of(resize: Resize, **changes: Any) -> ArtifactMetadata:
    values = {
        "names": ("dark", "bright"),
        "palette": ((0, 0, 0), (255, 255, 255)),
        "preprocessing": Preprocessing(imgsz=(64, 80), resize=resize),
        "precision": "fp32",
        "weights_sha256": "0" * 64,
        "smallest": (8, 8),
    }
    return ArtifactMetadata.model_validate(values | changes)


@pytest.mark.parametrize("resize", ["fit", "stretch"])
@pytest.mark.parametrize("backend", [OrtPredictor, OpenVinoPredictor])
def test_any_photo_gets_the_mask_that_resizing_before_gives(
    resize: Resize, backend: Any, write_onnx: Any, tmp_path: Path
) -> None:
    """A threshold in the middle of noise: a value off by one shows in the mask."""
    if backend is OpenVinoPredictor:
        pytest.importorskip("openvino")
    metadata = metadata_of(resize, smallest=(1, 1))
    network = write_onnx(tmp_path / "model.onnx", metadata=metadata.model_dump_json())
    export_photo(network, metadata, tmp_path / "model.photo.onnx")
    reference, found = OrtPredictor(network, threads=1), backend(tmp_path / "model.photo.onnx", 1)
    random = np.random.default_rng(0)
    drawn = np.exp(random.uniform(0, np.log(1000), (40, 2))).astype(int)
    for size in (*SIZES, *HARD, *map(tuple, drawn.tolist())):
        image = photo(size)
        expected, mask = reference.predict(image), found.predict(image)
        assert mask.shape == expected.shape == size
        assert (mask == expected).all(), size


def test_the_size_of_every_photo_is_the_same_in_the_graph() -> None:
    """Sizes that end in half a pixel are rounded as by `resized_size`, also in float32."""
    openvino = pytest.importorskip("openvino")
    metadata = metadata_of("fit", smallest=(1, 1))
    model = _before(metadata)
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("before_target", onnx.TensorProto.INT64, [2])
    )
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(data), "CPU")
    halves = [(height, 960) for height in range(6, 960, 36)]  # 0.5, 3.5, 6.5, ... rows
    for size in (*halves, (704, 55), (9999, 7), (7, 9999)):
        image = np.zeros((1, *size, 3), np.uint8)
        expected = list(metadata.preprocessing.model_size(*size))
        assert session.run(None, {"before_photo": image})[0].tolist() == expected, size
        assert compiled({"before_photo": image})[0].tolist() == expected, size


def test_a_thin_photo_is_stretched_to_what_the_network_takes(write_patches: Any, tmp_path: Path) -> None:
    network = write_patches(tmp_path / "model.onnx")
    metadata = OrtPredictor(network, threads=1).metadata.model_copy(update={"smallest": (8, 8)})
    export_photo(network, metadata, tmp_path / "model.photo.onnx")
    found = OrtPredictor(tmp_path / "model.photo.onnx", threads=1)
    assert found.limits.low == (1, 1, 1)
    for size in ((3, 640), (900, 2), (1, 1)):
        for value in (0, 255):
            assert (found.predict(np.full((*size, 3), value, np.uint8)) == value // 255).all()


def test_openvino_refuses_a_photo_that_is_too_thin_as_an_image_and_goes_on(
    write_patches: Any, tmp_path: Path
) -> None:
    """Its features may be smaller than PyTorch's `smallest` allows."""
    pytest.importorskip("openvino")
    metadata = metadata_of("fit", smallest=(1, 1))
    export_photo(write_patches(tmp_path / "model.onnx"), metadata, tmp_path / "model.photo.onnx")
    predictor = OpenVinoPredictor(tmp_path / "model.photo.onnx", 1)
    expected = predictor.run(photo((64, 64))[None])
    for size in ((1, 900), (900, 1)):
        with pytest.raises(
            InvalidImageError, match=rf"got an image of {size[0]} x {size[1]}, .* use backend ort"
        ):
            predictor.run(photo(size)[None])
        assert np.array_equal(predictor.run(photo((64, 64))[None]), expected)


def test_a_model_that_does_not_resize_and_logits_are_refused(write_onnx: Any, tmp_path: Path) -> None:
    network = write_onnx(tmp_path / "model.onnx")
    for metadata, message in (
        (metadata_of("none"), r"takes images at their own size \(resize none\)"),
        (metadata_of("fit", output="mask+logits"), "--resize-in-graph has no logits"),
    ):
        with pytest.raises(ExportError, match=message):
            export_photo(network, metadata, tmp_path / "model.photo.onnx")
    assert not (tmp_path / "model.photo.onnx").exists()


def test_the_recipes_of_the_page_give_the_masks_of_zoo(
    write_onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    metadata = metadata_of("fit", preprocessing=Preprocessing(imgsz=(64, 64)), smallest=(1, 1))
    network = write_onnx(Path("model.onnx"), metadata=metadata.model_dump_json())
    export_photo(network, metadata, Path("model.photo.onnx"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for size in ((200, 300), (700, 60), (40, 33)):
        Image.fromarray(photo(size)).save("photo.jpg", quality=95)
        image = np.asarray(Image.open("photo.jpg").convert("RGB"))
        expected = OrtPredictor(network, threads=1).predict(image)
        assert 0.05 < expected.mean() < 0.95
        names: dict[str, Any] = {"np": np, "Image": Image, "onnxruntime": onnxruntime, "openvino": openvino}
        for block in blocks:
            exec(block, names)
            assert (names["mask"] == expected).all(), (size, block)
            del names["mask"]


@pytest.mark.slow
def test_the_command_writes_compares_and_records_the_file(bundle_copy: Path) -> None:
    options = ("--precision", "fp32", "--resize-in-graph", "--min-agreement", "0.9")
    result = CliRunner().invoke(app, ["export", str(bundle_copy), *options])
    assert result.exit_code == 0, result.output
    entry = read_manifest(bundle_copy).artifacts["model.photo.onnx"]
    assert entry["metadata"]["preprocessing"]["resize"] == "none"
    assert entry["parity"]["passed"]
    verified = CliRunner().invoke(app, ["export", str(bundle_copy), "--verify"])
    assert verified.exit_code == 0, verified.output
