"""TIFF files of any size in tiles: read by rows, and written by rows where they lie on the map."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.classes import IGNORE, Classes
from zoo.image_format import ImageFormat
from zoo.pages.overlay import overlay
from zoo.predict.inputs import find_inputs
from zoo.predict.outputs import make_jobs
from zoo.predict.scene import write_scene
from zoo.predict.stream import Options
from zoo.predictors.base import Predictor
from zoo.predictors.load import load_predictor
from zoo.predictors.outputs import CONFIDENCE, LOGITS, MASK
from zoo.predictors.tiles import Tiling, predict_tiles
from zoo.preprocess import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from typer.testing import Result

    Zoo = Callable[..., Result]

rasterio: Any = pytest.importorskip("rasterio")

pytestmark = [
    pytest.mark.usefixtures("zoo"),  # an empty folder
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

TILES = ("--tile", "64", "--overlap", "0.25")
WHERE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)}


def scene_of(height: int = 150, width: int = 110, channels: int = 3) -> NDArray[np.uint8]:
    """Return an image of random blocks, (H, W, C)."""
    cells = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, channels), np.uint8)
    return cells.repeat(10, 0).repeat(10, 1)


def write(path: str, image: NDArray[Any], **options: Any) -> Path:
    """Write a GeoTIFF."""
    height, width, count = image.shape
    options = {"driver": "GTiff", "height": height, "width": width, "count": count} | WHERE | options
    with rasterio.open(path, "w", dtype=image.dtype, **options) as file:
        file.write(np.moveaxis(image, -1, 0))
    return Path(path)


def read(path: str) -> NDArray[Any]:
    """Return the only band of a file."""
    with rasterio.open(path) as file:
        assert file.count == 1
        band: NDArray[Any] = file.read(1)
    return band


def expected_of(bundle: Path, image: NDArray[Any], outputs: tuple[str, ...] = (MASK,)) -> dict[str, Any]:
    return dict(predict_tiles(load_predictor(bundle), image, Tiling(64, 0.25), outputs, 8).outputs)


def test_the_results_of_a_geotiff_are_those_of_its_tiles_at_its_place_on_the_map(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    image = scene_of(610, 110)  # more rows than a block of the written files
    write("scene.tif", image, compress="lzw")
    result = zoo("predict", shapes_bundle, "scene.tif", *TILES, "--confidence", "--overlay", "--json")
    assert result.exit_code == 0, result.output
    expected = expected_of(shapes_bundle, image, (MASK, CONFIDENCE))
    assert np.array_equal(read("predictions/scene.mask.tif"), expected[MASK])
    assert np.array_equal(read("predictions/scene.confidence.tif"), expected[CONFIDENCE])
    classes = load_predictor(shapes_bundle).classes
    for name in ("mask", "confidence", "overlay"):
        with rasterio.open(f"predictions/scene.{name}.tif") as file:
            assert (file.crs, file.transform) == (rasterio.CRS.from_epsg(32633), WHERE["transform"])
            assert (file.dtypes[0], file.nodata) == ("uint8", IGNORE if name == "mask" else None)
            if name == "mask":
                assert [file.colormap(1)[label][:3] for label in range(len(classes))] == list(classes.palette)
            if name == "overlay":
                drawn = np.moveaxis(file.read(), 0, -1)
    blended = overlay(image, expected[MASK], classes)
    assert (drawn != blended).any(axis=2).mean() < 0.05  # lines between the classes end at a strip
    [shown] = json.loads(result.stdout)["images"]
    assert shown["size"] == [610, 110]
    shares = {classes.names[label]: np.mean(expected[MASK] == label) for label in np.unique(expected[MASK])}
    assert shown["areas"] == pytest.approx(shares)
    with Image.open("predictions/scene.mask.tif") as opened:
        assert opened.mode == "P"  # a mask that training reads


def test_a_scene_is_kept_predicted_anew_with_other_tiles_and_no_input_of_its_own_folder(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    write("scene.tif", scene_of())
    Image.fromarray(scene_of()).save("photo.jpg")

    def run(*options: str) -> dict[str, Any]:
        result = zoo("predict", shapes_bundle, ".", "--out", ".", "--json", *options)  # beside the images
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    first = run(*TILES)
    assert (first["predicted"], first["kept"]) == (2, 0)
    assert Path("scene.mask.tif").is_file()
    assert (run(*TILES)["predicted"], run(*TILES)["kept"]) == (0, 2)
    assert run("--tile", "96")["predicted"] == 2
    Path("scene.mask.tif").write_bytes(b"drawn by hand")
    refused = zoo("predict", shapes_bundle, "scene.tif", "--out", ".", "--tile", "32")
    assert refused.exit_code == 1
    assert "scene.mask.tif" in str(refused.exception)
    assert Path("scene.mask.tif").read_bytes() == b"drawn by hand"


def test_pixels_without_data_have_no_class(zoo: Zoo, shapes_bundle: Path) -> None:
    image = scene_of()
    image[:70, :30] = 0
    write("gap.tif", image, nodata=0)
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    alpha[100:] = 0
    write("alpha.tif", np.concatenate([image, alpha], axis=2), photometric="rgb", alpha="yes")
    result = zoo("predict", shapes_bundle, "gap.tif", "alpha.tif", *TILES)
    assert result.exit_code == 0, result.output
    expected = expected_of(shapes_bundle, image)[MASK]
    empty = (image == 0).all(axis=2)
    assert np.array_equal(read("predictions/gap.mask.tif"), np.where(empty, IGNORE, expected))
    image[100:] = 0
    expected = expected_of(shapes_bundle, image)[MASK]
    expected[100:] = IGNORE
    assert np.array_equal(read("predictions/alpha.mask.tif"), expected)


def test_a_file_that_is_no_array_of_its_bands_is_read_as_other_images_are(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    image = scene_of()
    Image.fromarray(image).quantize(16).save("palette.tif")
    turned = Image.fromarray(image)
    exif = turned.getexif()
    exif[274] = 6
    turned.save("turned.tif", exif=exif)
    gray = image[..., :1]
    write("gray.tif", gray)
    result = zoo("predict", shapes_bundle, "palette.tif", "turned.tif", "gray.tif", *TILES)
    assert result.exit_code == 0, result.output
    with Image.open("palette.tif") as opened:
        colors = np.array(opened.convert("RGB"))
    assert np.array_equal(read("predictions/palette.mask.tif"), expected_of(shapes_bundle, colors)[MASK])
    upright = np.ascontiguousarray(np.rot90(image, -1))
    assert np.array_equal(read("predictions/turned.mask.tif"), expected_of(shapes_bundle, upright)[MASK])
    expected = expected_of(shapes_bundle, gray.repeat(3, axis=2))
    assert np.array_equal(read("predictions/gray.mask.tif"), expected[MASK])


def test_a_file_that_cannot_be_read_is_one_line_and_the_others_are_predicted(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    write("good.tif", scene_of())
    cut = write("cut.tif", scene_of())
    cut.write_bytes(cut.read_bytes()[:20_000])
    Path("text.tif").write_text("no image")
    write("deep.tif", scene_of().astype(np.uint16))
    result = zoo("predict", shapes_bundle, ".", *TILES, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [each["input"] for each in found["images"]] == ["good.tif"]
    errors = {each["input"]: each["error"] for each in found["errors"]}
    assert errors.keys() == {"cut.tif", "text.tif", "deep.tif"}
    assert all("\n" not in error for error in errors.values())
    assert "cut.tif cannot be read" in errors["cut.tif"]
    assert "deep.tif has 3 x uint16 as bands, expected" in errors["deep.tif"]
    assert [path.name for path in Path("predictions").iterdir() if path.suffix == ".tif"] == ["good.mask.tif"]


def test_without_rasterio_one_line_says_how_to_install_it(
    zoo: Zoo, shapes_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("scene.tif", scene_of())
    monkeypatch.setitem(sys.modules, "rasterio", None)
    result = zoo("predict", shapes_bundle, "scene.tif", *TILES)
    assert result.exit_code == 1
    assert "pip install 'semiseg-zoo[geo]'" in str(result.exception)
    assert not Path("predictions/predictions.jsonl").exists()
    assert zoo("predict", shapes_bundle, "scene.tif").exit_code == 0  # whole, as a PNG
    assert Path("predictions/scene.png").is_file()


class Bright(Predictor):
    """A model whose class is the brightest channel."""

    backend = "stand-in"
    available = (MASK, LOGITS)

    def __init__(self, format_: ImageFormat) -> None:
        mean = (0.5,) * format_.channels
        preprocessing = Preprocessing(imgsz=(32, 32), resize="none", mean=mean, std=mean, format=format_)
        super().__init__(Classes.of(tuple("abcd")), preprocessing)

    def infer(self, images: NDArray[Any], outputs: Sequence[str] = (MASK,)) -> dict[str, NDArray[Any]]:
        assert images.dtype.name == self.format.dtype
        assert tuple(outputs) == (LOGITS,)
        return {LOGITS: images.transpose(0, 3, 1, 2).astype(np.float32)}


def predicted(model: Predictor, *names: str, side: int = 64) -> dict[str, NDArray[Any]]:
    """Return the masks of files by name."""
    out, options = Path.cwd(), Options(tiling=Tiling(side, 0.25))
    inputs = find_inputs(names, 1, out, model.format, by_rows=True)
    return {
        job.name: read(write_scene(job, model, options, out, (MASK,)).files[MASK][0])
        for job in make_jobs(inputs, out, (MASK,))
    }


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_channels_of_any_type_are_bands_or_pages(dtype: str) -> None:
    import tifffile

    ranges = ((0.0, 4095.0),) * 4
    model = Bright(ImageFormat(channels=4, dtype=dtype, ranges=ranges))  # type: ignore[arg-type]
    image = (scene_of(channels=4) * 16).astype(dtype)
    gap = -1 if dtype == "float32" else 65_535
    holed = image.copy()
    holed[:20] = gap
    write("bands.tif", holed, nodata=gap)
    tifffile.imwrite("pages.tif", image.transpose(2, 0, 1), photometric="minisblack")
    masks, expected = predicted(model, "bands.tif", "pages.tif"), image.argmax(axis=2)
    assert np.array_equal(masks["pages"], expected)
    expected[:20] = IGNORE
    assert np.array_equal(masks["bands"], expected)


@pytest.mark.parametrize(
    ("dtype", "gap"), [("float32", np.nan), ("float32", -9999), ("uint16", 65_535), ("uint16", 0)]
)
def test_a_pixel_without_data_in_one_band_has_no_class_unless_0_means_it(dtype: str, gap: float) -> None:
    """Footprints of bands differ at the sides of a scene, but 0 is also a dark value."""
    model = Bright(ImageFormat(channels=4, dtype=dtype, ranges=((0.0, 4095.0),) * 4))  # type: ignore[arg-type]
    image = ((scene_of(channels=4) + 1.0) * 15).astype(dtype)
    image[:20, :, 1] = gap
    image[-10:] = gap
    write("bands.tif", image, nodata=gap)
    expected = image.argmax(axis=2)
    expected[-10:] = IGNORE
    if gap != 0:
        expected[:20] = IGNORE
    assert np.array_equal(predicted(model, "bands.tif")["bands"], expected)


def test_memory_does_not_grow_with_the_height_of_a_scene() -> None:
    model = Bright(ImageFormat(channels=4))
    image = scene_of(800, 250, channels=4)  # GDAL calls the fourth channel alpha
    write("low.tif", image)
    write("tall.tif", np.tile(image, (10, 1, 1)))
    peaks = []
    for name in ("low", "low", "tall"):  # the first one loads modules
        tracemalloc.start()
        masks = predicted(model, f"{name}.tif", side=250)
        peaks.append(tracemalloc.get_traced_memory()[1] - masks[name].nbytes)  # what `read` allocates
        tracemalloc.stop()
    assert masks["tall"].shape == (8000, 250)
    whole = 8000 * 250 * 4
    assert peaks[2] - peaks[1] < whole / 4  # neither the image nor its logits, four times as large
