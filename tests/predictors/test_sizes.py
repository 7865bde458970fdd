"""The smallest images that a network takes: found when it is loaded, checked before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from tests.conftest import PATCHES
from zoo.errors import InvalidImageError
from zoo.predict.stream import Failed, stream
from zoo.predictors.artifact import ArtifactMetadata
from zoo.predictors.limits import SEARCHED, Limits, smallest
from zoo.predictors.load import load_predictor
from zoo.predictors.runtimes.openvino import OpenVinoPredictor
from zoo.predictors.runtimes.ort import OrtPredictor
from zoo.predictors.runtimes.ort_cuda import OrtCudaPredictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.predictors.base import Predictor

    Load = Callable[[Path], Predictor]
    WriteOnnx = Callable[..., Path]

LOADERS: dict[str, Load] = {
    "ort": lambda path: OrtPredictor(path, threads=1),
    "ort bound": lambda path: OrtCudaPredictor(path, "cpu"),
    "openvino": lambda path: OpenVinoPredictor(path, threads=1),
}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Load:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return LOADERS[request.param]


def image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("least", [1, 2, 5, 16, 32, 63, 64])
def test_the_smallest_square_is_found(least: int) -> None:
    asked: list[tuple[int, int]] = []

    def takes(size: tuple[int, int]) -> bool:
        asked.append(size)
        return min(size) >= least

    assert smallest(takes, Limits()) == Limits((1, least, least))
    assert len(asked) <= 8
    assert max(map(max, asked)) <= SEARCHED


def test_a_fixed_dimension_stays_and_a_network_that_fails_on_all_sizes_keeps_its_limits() -> None:
    fixed = Limits((2, 48, 1), (2, 48, 999))
    assert smallest(lambda size: size[1] >= 20, fixed) == Limits((2, 48, 20), (2, 48, 999))
    assert smallest(lambda _: False, fixed) == fixed


@pytest.mark.parametrize(
    ("size", "resized", "words"),
    [
        ((4, 4), None, "got an image of 4 x 4, expected 8..any x 8..any: crop or resize it"),
        ((5, 64), (40, 512), r"got an image of 40 x 512 \(5 x 64 at the network\), expected 8..any x 8"),
    ],
)
def test_a_size_that_is_not_taken_is_said_with_the_size_that_the_image_has(
    size: tuple[int, int], resized: tuple[int, int] | None, words: str
) -> None:
    with pytest.raises(InvalidImageError, match=words):
        Limits((1, 8, 8)).check(size, resized)
    Limits((1, 8, 8)).check((8, 8))


def test_a_file_of_patches_takes_no_image_that_is_smaller_than_one(
    load: Load, write_patches: WriteOnnx, tmp_path: Path
) -> None:
    predictor = load(write_patches(tmp_path / "patches.onnx"))
    assert predictor.limits == Limits((1, PATCHES, PATCHES))
    thin = image(30, 400)  # 5 x 64 at the network
    for call in (predictor.predict, predictor.predict_with_confidence):
        with pytest.raises(InvalidImageError, match=r"30 x 400 \(5 x 64 at the network\), expected 8\.\.any"):
            call(thin)
    for size in ((4, 4), (PATCHES - 1, 64), (64, PATCHES - 1)):
        with pytest.raises(InvalidImageError, match=f"got an image of {size[0]} x {size[1]}, expected"):
            predictor.run(image(*size)[None])
    assert predictor.run(image(PATCHES, PATCHES)[None]).shape == (1, PATCHES, PATCHES)


def test_a_file_that_takes_single_pixels_does(load: Load, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    predictor = load(write_onnx(tmp_path / "model.onnx"))
    assert predictor.limits == Limits()
    assert predictor.predict(np.full((1, 1, 3), 255, np.uint8)).tolist() == [[1]]


def test_a_file_that_gives_its_smallest_size_is_not_tried(
    load: Load, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    metadata = load_predictor(write_onnx(tmp_path / "model.onnx"), backend="ort").metadata
    given = metadata.model_copy(update={"smallest": (12, 20)}).model_dump_json()
    predictor = load(write_onnx(tmp_path / "given.onnx", metadata=given))
    assert predictor.limits == Limits((1, 12, 20))


def test_openvino_takes_no_smaller_image_than_it_can_though_the_file_gives_a_smaller_one(
    write_patches: WriteOnnx, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = onnx.load(write_patches(tmp_path / "patches.onnx"))
    [metadata] = model.metadata_props
    given = ArtifactMetadata.model_validate_json(metadata.value).model_copy(update={"smallest": (1, 12)})
    metadata.value = given.model_dump_json()
    onnx.save(model, tmp_path / "given.onnx")
    predictor = OpenVinoPredictor(tmp_path / "given.onnx", threads=1)
    assert predictor.limits == Limits((1, PATCHES, 12))
    with pytest.raises(InvalidImageError, match="got an image of 1 x 64, expected"):
        predictor.run(image(1, 64)[None])


def test_the_network_of_a_bundle_says_what_it_takes(
    make_bundle: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    patches = load_predictor(make_bundle(tmp_path / "bundle", encoder="convnext_atto", output_stride=16))
    assert patches.limits == Limits((1, 16, 16))
    with pytest.raises(InvalidImageError, match=r"40 x 400 \(6 x 64 at the network\), expected 16\.\.any"):
        patches.predict(image(40, 400))
    with pytest.raises(InvalidImageError, match="got an image of 15 x 64"):
        patches.logits(image(15, 64)[None])
    assert patches.predict(image(100, 400)).shape == (100, 400)
    assert load_predictor(tiny_bundle).limits == Limits()


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3)])
def test_an_image_without_a_pixel_is_none(tiny_bundle: Path, shape: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidImageError, match=r"got an image of shape \(\d, \d, 3\)"):
        load_predictor(tiny_bundle).predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("batch", [1, 4])
def test_small_images_among_others_fail_alone(
    load: Load, write_patches: WriteOnnx, tmp_path: Path, batch: int
) -> None:
    from zoo.predict.stream import Options

    predictor = load(write_patches(tmp_path / "patches.onnx", resize="none"))
    images = [image(*size) for size in ((4, 4), (64, 64), (64, 64), (3, 64), (64, 64), (9, 70), (7, 7))]
    results = {each.item: each for each in stream(predictor, range(7), images.__getitem__, Options(batch))}
    failed = {item for item, each in results.items() if isinstance(each, Failed)}
    assert failed == {0, 3, 6}
    for item, each in results.items():
        if isinstance(each, Failed):
            assert isinstance(each.error, InvalidImageError)
        else:
            assert np.array_equal(each.prediction().mask, predictor.predict(images[item]))
