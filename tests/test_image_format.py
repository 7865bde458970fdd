"""Formats of images: statistics, decoding, normalization, augmentation, and the adapted first convolution."""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from zoo.data.cache.cached import CachedSource
from zoo.data.cache.disk import DiskCache
from zoo.data.channels import measure
from zoo.data.data_file import DATA_FILE
from zoo.data.datasets import UnlabeledImages
from zoo.data.files import read_image_file
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError, InvalidImageError, RecipeError, ZooError
from zoo.evaluation.corruptions import Corrupted
from zoo.image_format import RGB, ImageFormat, displayed
from zoo.models.config import ClassifierConfig, NetworkConfig
from zoo.models.encoder import TimmEncoder
from zoo.models.timm_models import create_timm
from zoo.predict.inputs import find_inputs
from zoo.predictors.artifact import ArtifactMetadata
from zoo.preprocess import Preprocessing, check_image, normalize, resize_image
from zoo.rasters import ImageFormatError, decode_raster, read_raster
from zoo.train.data.augment import skipped_augmentations, strong_view
from zoo.train.data.streams import TrainingData
from zoo.train.recipe.schema import AugmentConfig, Recipe

if sys.platform == "linux":
    from zoo.data.cache.memory import MemoryCache

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FOUR = ImageFormat(channels=4)
DEEP = ImageFormat(channels=1, dtype="uint16", ranges=((100, 1100),))
FLOATS = ImageFormat(channels=2, dtype="float32", ranges=((-1, 1), (0, 10)))
RANDOM = np.random.default_rng(0)


def folder_of(tmp_path: Path, toml: str, images: list[NDArray[Any]]) -> Path:
    """Write a data set of arrays, whose last image is the only one of `val`."""
    for number, image in enumerate(images):
        split = tmp_path / ("val" if number == len(images) - 1 else "train")
        (split / "images").mkdir(parents=True, exist_ok=True)
        (split / "masks").mkdir(parents=True, exist_ok=True)
        np.save(split / "images" / f"{number}.npy", image)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[0] = 1
        Image.fromarray(mask).save(split / "masks" / f"{number}.png")
    (tmp_path / DATA_FILE).write_text(f'names = ["a", "b"]\n{toml}\n')
    return tmp_path


def test_statistics_are_those_of_all_pixels_of_the_pool(tmp_path: Path) -> None:
    images = [RANDOM.normal((2, -5), (3, 1), (40, 50, 2)).astype(np.float32) for _ in range(4)]
    source = FolderSource(str(folder_of(tmp_path, 'channels = 2\ndtype = "float32"', images)))
    found = measure(source, source.ids("train"))

    pool = np.concatenate([image.reshape(-1, 2) for image in images[:3]]).astype(np.float64)
    low, high = pool.min(axis=0), pool.max(axis=0)
    unit = (pool - low) / (high - low)
    np.testing.assert_allclose(found.format.ranges, np.stack([low, high], axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.mean, unit.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.std, unit.std(axis=0), rtol=1e-5)


def test_percentiles_of_the_pool_are_ranges_outside_which_values_are_clipped(tmp_path: Path) -> None:
    images = [RANDOM.integers(0, 4000, (30, 40, 1)).astype(np.uint16) for _ in range(3)]
    toml = 'channels = 1\ndtype = "uint16"\npercentiles = [10, 90]'
    source = FolderSource(str(folder_of(tmp_path, toml, images)))
    found = measure(source, source.ids("train"))

    pool = np.concatenate([image.ravel() for image in images[:2]]).astype(np.float64)
    low, high = np.percentile(pool, (10, 90))
    assert found.format.ranges == ((pytest.approx(low), pytest.approx(high)),)
    unit = ((pool - low) / (high - low)).clip(0, 1)
    assert (found.mean, found.std) == ((pytest.approx(unit.mean()),), (pytest.approx(unit.std()),))


def test_a_channel_of_one_value_can_be_normalized(tmp_path: Path) -> None:
    images = [np.full((8, 8, 1), 7, np.uint16)] * 2
    source = FolderSource(str(folder_of(tmp_path, 'channels = 1\ndtype = "uint16"', images)))
    found = measure(source, source.ids("train"))
    preprocessing = Preprocessing(imgsz=(32, 32), mean=found.mean, std=found.std, format=found.format)
    assert normalize(torch.tensor(images[0]).permute(2, 0, 1)[None], preprocessing).abs().max() == 0


@pytest.mark.parametrize(
    ("toml", "got"),
    [
        ("channels = 4\nrange = [5, 5]", "lower value first"),
        ("channels = 4\nrange = [[0, 1], [0, 2]]", "got 2 ranges"),
        ("channels = 4\nrange = [0, 9]\npercentiles = [1, 99]", "both range and percentiles"),
        ("channels = 4\npercentiles = [99, 1]", "lower one first"),
        ("channels = 4\nrgb = [0, 1, 4]", "expected channels 0..3"),
        ("range = [0, 9]", "got range for 8-bit RGB"),
        ('dtype = "int16"', "dtype"),
        ("channels = 0", "channels"),
    ],
)
def test_settings_that_do_not_belong_together_are_one_line(tmp_path: Path, toml: str, got: str) -> None:
    folder_of(tmp_path, toml, [np.zeros((8, 8, 4), np.uint8)] * 2)
    with pytest.raises(DatasetError, match=got) as caught:
        FolderSource(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_image_of_another_format_is_one_clear_finding(tmp_path: Path) -> None:
    images = [RANDOM.integers(0, 255, (40, 40, 4)).astype(np.uint8) for _ in range(4)]
    images[0], images[1] = images[0][..., :3], images[1].astype(np.uint16)
    folder_of(tmp_path, "channels = 4", images)
    found = [each for each in inspect(str(tmp_path)).findings if each.kind == "image-format"]
    assert [each.files for each in found] == [("train/images/0.npy",), ("train/images/1.npy",)]
    assert "40 x 40 x 3 values of uint8, expected 4 channels of uint8" in found[0].detail
    assert "values of uint16" in found[1].detail


def test_readable_images_of_a_declared_format_have_no_findings_of_their_own(tmp_path: Path) -> None:
    images = [RANDOM.integers(0, 60000, (40, 40, 1)).astype(np.uint16) for _ in range(3)]
    folder_of(tmp_path, 'channels = 1\ndtype = "uint16"', images)
    inspection = inspect(str(tmp_path))
    assert not inspection.has_faults
    assert all(facts.image is not None and facts.image.size == (40, 40) for facts in inspection.facts)


def test_arrays_of_rgb_data_sets_are_not_images(tmp_path: Path) -> None:
    folder_of(tmp_path, "", [np.zeros((8, 8, 3), np.uint8)] * 2)
    with pytest.raises(DatasetError, match="got no images"):
        FolderSource(str(tmp_path))


def pixels_of(format_: ImageFormat) -> NDArray[Any]:
    """Return an image of a format."""
    return RANDOM.integers(0, 250, (7, 9, format_.channels)).astype(format_.dtype)


@pytest.mark.parametrize("format_", [FOUR, DEEP, FLOATS], ids=str)
@pytest.mark.parametrize("kind", ["samples", "pages", "array", "array of channels", "compressed"])
def test_tiff_files_and_arrays_are_read_as_written(tmp_path: Path, format_: ImageFormat, kind: str) -> None:
    image = pixels_of(format_)
    planes = image.transpose(2, 0, 1)
    path = tmp_path / f"image.{'npy' if kind.startswith('array') else 'tif'}"
    if kind.startswith("array"):
        np.save(path, image if kind == "array" else planes)
    elif kind == "pages":
        tifffile.imwrite(path, planes, photometric="minisblack")
    else:
        compression = "zlib" if kind == "compressed" else None
        layout = {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(path, image.squeeze(), compression=compression, **layout)
    found = read_raster(path, format_)
    assert found.dtype.name == format_.dtype
    np.testing.assert_array_equal(found, image)


def test_png_files_of_four_channels_and_of_16_bits_are_read_as_written(tmp_path: Path) -> None:
    four, deep = pixels_of(FOUR), pixels_of(DEEP)
    Image.fromarray(four).save(tmp_path / "four.png")
    Image.fromarray(deep[..., 0]).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "four.png", FOUR), four)
    np.testing.assert_array_equal(read_raster(tmp_path / "deep.png", DEEP), deep)
    with pytest.raises(ImageFormatError, match="7 x 9 values of uint16, expected 4 channels of uint8"):
        read_raster(tmp_path / "deep.png", FOUR)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00rubbish", b"II*\0rubbish"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    with pytest.raises(InvalidImageError, match="cannot be read") as caught:
        read_raster(path, FOUR)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_image_file(path, FOUR)


def test_values_that_are_not_finite_are_refused() -> None:
    image = pixels_of(FLOATS)
    image[0, 0, 0], image[1, 1, 1] = np.nan, np.inf
    file = io.BytesIO()
    np.save(file, image)
    file.seek(0)
    with pytest.raises(InvalidImageError, match="2 values that are NaN or infinite"):
        decode_raster(file, FLOATS, "the image")
    with pytest.raises(InvalidImageError, match="NaN"):
        check_image(image, FLOATS)


def test_the_size_is_known_before_pixels_are_decoded() -> None:
    file = io.BytesIO()
    np.save(file, pixels_of(FOUR))
    short = io.BytesIO(file.getvalue()[:150])  # the header alone

    def refuse(size: tuple[int, int]) -> None:
        raise InvalidImageError(f"too large: {size}")

    with pytest.raises(InvalidImageError, match=r"too large: \(7, 9\)"):
        decode_raster(short, FOUR, "the image", refuse)


def test_values_are_clipped_to_their_ranges_and_normalized() -> None:
    preprocessing = Preprocessing(imgsz=(32, 32), mean=(0.5,), std=(0.25,), format=DEEP)
    values = torch.tensor([0.0, 100, 600, 1100, 60000]).view(1, 1, 1, 5)
    assert normalize(values, preprocessing).flatten().tolist() == [-2, -2, 0, 2, 2]
    assert preprocessing.color == (600,)


def test_rgb_is_normalized_as_before() -> None:
    preprocessing = Preprocessing(imgsz=(32, 32))
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = (
        torch.tensor(each).view(1, 3, 1, 1) * 255 for each in (preprocessing.mean, preprocessing.std)
    )
    assert torch.equal(normalize(images, preprocessing), (images.float() - mean) / std)


def test_files_of_rgb_models_do_not_change() -> None:
    preprocessing = Preprocessing(imgsz=(32, 48))
    assert set(preprocessing.model_dump(mode="json")) == {"imgsz", "resize", "mean", "std"}
    assert "in_channels" not in NetworkConfig().model_dump()
    assert "in_channels" not in ClassifierConfig().model_dump_json()
    assert Preprocessing.model_validate_json('{"imgsz": [32, 48]}').format == RGB


def test_the_format_survives_in_the_files_of_other_models() -> None:
    preprocessing = Preprocessing(imgsz=(32, 48), mean=(0.1, 0.2), std=(1, 2), format=FLOATS)
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing
    metadata = ArtifactMetadata(
        names=("a", "b"),
        palette=((0, 0, 0), (1, 1, 1)),
        preprocessing=preprocessing,
        precision="fp32",
        weights_sha256="",
    )
    blank = metadata.blank((2, 3, 4))
    assert (blank.shape, blank.dtype) == ((2, 3, 4, 2), np.float32)
    assert NetworkConfig.model_validate(NetworkConfig(in_channels=4).model_dump()).in_channels == 4


@pytest.mark.parametrize("format_", [FOUR, DEEP, FLOATS], ids=str)
def test_each_channel_is_resized_alone(format_: ImageFormat) -> None:
    image = pixels_of(format_)
    found = resize_image(image, (4, 5))
    assert (found.shape, found.dtype.name) == ((4, 5, format_.channels), format_.dtype)
    for channel in range(format_.channels):
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        expected = np.asarray(plane.resize((5, 4), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[..., channel], expected, atol=0.5)


def test_pictures_show_three_channels_stretched() -> None:
    image = np.zeros((10, 10, 4), np.uint16)
    image[..., 3] = 1000 * np.arange(10)
    shown = displayed(image, ImageFormat(channels=4, dtype="uint16", shown=(3, 0, 1)))
    assert (shown.shape, shown.dtype) == ((10, 10, 3), np.uint8)
    assert (shown[0, 0, 0], shown[0, 9, 0], shown[..., 1:].max()) == (0, 255, 0)
    four = pixels_of(FOUR)
    np.testing.assert_array_equal(displayed(four, FOUR), four[..., :3])
    gray = displayed(pixels_of(FLOATS), FLOATS)
    assert (gray[..., 0] == gray[..., 2]).all()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_first_convolution_has_the_rgb_weights_summed_or_repeated_and_scaled(channels: int) -> None:
    rgb = create_timm("test_resnet", pretrained=False).state_dict()
    encoder = TimmEncoder("test_resnet", pretrained=rgb, in_channels=channels)
    [(name, weight)] = [(key, value) for key, value in rgb.items() if key == "conv1.0.weight"] or [
        next((key, value) for key, value in rgb.items() if value.ndim == 4)
    ]
    if channels == 1:
        expected = weight.sum(dim=1, keepdim=True)
    else:
        expected = torch.stack([weight[:, index % 3] for index in range(channels)], dim=1) * 3 / channels
    torch.testing.assert_close(encoder.body.state_dict()[name], expected)


def augmented(**changes: Any) -> AugmentConfig:
    """Return settings by which each strong view is jittered."""
    return AugmentConfig(jitter_probability=1.0, grayscale=0.0, blur=0.0, **changes)


@pytest.mark.parametrize("format_", [FOUR, DEEP, FLOATS], ids=str)
def test_brightness_and_contrast_stay_within_the_ranges_of_each_channel(format_: ImageFormat) -> None:
    torch.manual_seed(0)
    low, high = (torch.tensor(each).view(-1, 1, 1) for each in zip(*format_.bounds, strict=True))
    unit = torch.rand(format_.channels, 8, 8)
    image = low + unit * (high - low)
    image = image.round().to(torch.uint8) if format_ is FOUR else image
    view = strong_view(augmented(jitter=(0.9, 0.9, 0.5, 0.5)), format_)(image)
    assert view.dtype == image.dtype
    assert not torch.equal(view, image)
    slack = 1e-4 * (high - low)
    assert (view.float() >= low - slack).all()
    assert (view.float() <= high + slack).all()


def test_what_is_not_defined_for_other_channels_is_named() -> None:
    config = AugmentConfig(jitter=(0.5, 0.5, 0.5, 0.25), grayscale=0.2)
    assert skipped_augmentations(config, FOUR) == ("saturation", "hue", "grayscale")
    assert skipped_augmentations(config, RGB) == ()
    assert skipped_augmentations(config, ImageFormat(channels=3, dtype="uint16")) == ()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_caches_keep_the_pixels_of_any_format(tmp_path: Path, dtype: str) -> None:
    images = [RANDOM.integers(0, 250, (9, 8, 4)).astype(dtype) for _ in range(3)]
    toml = f'channels = 4\ndtype = "{dtype}"'
    source = FolderSource(str(folder_of(tmp_path / "data", toml, images)))
    ids = (*source.ids("train"), *source.ids("val"))
    caches = [DiskCache(source, tmp_path / "cache", None)]
    if sys.platform == "linux":
        memory = MemoryCache(ids, 10**6, dtype)
        caches.append(pickle.loads(pickle.dumps(memory)))
    for cache in caches:
        cached = CachedSource(source, cache)
        assert cached.format == source.format
        for id_, image in zip(ids, images, strict=True):
            cached.read_image(id_)
            found = cache.get("image", id_)
            assert found is not None
            assert found.dtype.name == dtype
            np.testing.assert_array_equal(cached.read_image(id_), image)
            np.testing.assert_array_equal(cached.read_mask(id_), source.read_mask(id_))


def test_training_sees_all_values_of_16_bits(tmp_path: Path) -> None:
    images = [np.arange(60_000, 60_000 + 64, dtype=np.uint16).reshape(8, 8, 1)] * 2
    source = FolderSource(str(folder_of(tmp_path, 'channels = 1\ndtype = "uint16"', images)))
    [image] = UnlabeledImages(source, source.ids("val"))
    assert (image.shape, image.dtype) == ((1, 8, 8), torch.float32)
    np.testing.assert_array_equal(image[0].numpy(), images[0][..., 0])


def with_statistics(**data: Any) -> Recipe:
    """Return a recipe of labels only."""
    settings = {"recipe": "x", "steps": 3, "method": {"name": "supervised"}, "pretrained": False}
    return Recipe.model_validate({**settings, "network": {"encoder": "test_resnet"}, "data": data})


def test_a_new_run_takes_format_and_statistics_from_its_images_and_a_resumed_one_keeps_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [RANDOM.integers(0, 250, (32, 32, 4)).astype(np.uint8) for _ in range(4)]
    source = FolderSource(str(folder_of(tmp_path, "channels = 4", images)))
    caplog.set_level("INFO")
    recipe = TrainingData.draw(with_statistics(spec=source.spec), source).recipe
    assert recipe.network.in_channels == 4
    found = measure(source, source.ids("train"))
    assert (recipe.preprocessing.mean, recipe.preprocessing.format) == (found.mean, source.format)
    assert "images: 4 channels of uint8, ranges 0..255" in caplog.text
    assert "without saturation, hue, grayscale" in caplog.text

    again = Recipe.model_validate_json(recipe.model_dump_json())
    kept = again.model_copy(update={"data": again.data.model_copy(update={"mean": (0.5,) * 4})})
    assert TrainingData.draw(kept, source).recipe.preprocessing.mean == (0.5,) * 4


def test_statistics_for_rgb_are_refused_for_other_images(tmp_path: Path) -> None:
    images = [RANDOM.integers(0, 250, (32, 32, 4)).astype(np.uint8) for _ in range(4)]
    source = FolderSource(str(folder_of(tmp_path, "channels = 4", images)))
    recipe = with_statistics(spec=source.spec, mean=[0.1, 0.2, 0.3])
    with pytest.raises(RecipeError, match="measured on the images: leave them out"):
        TrainingData.draw(recipe, source)


def test_data_of_another_format_than_the_model_is_one_line(tmp_path: Path) -> None:
    source = FolderSource(str(folder_of(tmp_path, "channels = 4", [np.zeros((8, 8, 4), np.uint8)] * 2)))
    with pytest.raises(DatasetError, match="has images of 4 channels of uint8, expected 3 channels of uint8"):
        source.check_format(RGB)
    with pytest.raises(ZooError, match="--corrupt noise:1 is defined for 8-bit RGB"):
        Corrupted(source, "noise:1")
    with pytest.raises(DatasetError, match="expected 3 channels of uint8"):
        find_inputs([str(tmp_path / DATA_FILE)], 8, tmp_path / "out")
