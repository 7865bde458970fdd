from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.bundle.bundle import load_config
from zoo.bundle.weights import save_bundle
from zoo.errors import BundleError, InvalidImageError, RegistryError
from zoo.models.classifier import ImageClassifier
from zoo.models.config import ClassifierConfig
from zoo.predictors.load import load_predictor
from zoo.registry.push import PushOptions, push

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(3)
IMAGE: NDArray[np.uint8] = RANDOM.integers(256, size=(48, 80, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with an empty cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> zoo.Model:
    return zoo.load(tiny_bundle, device="cpu")


def test_importing_zoo_loads_nothing_but_itself() -> None:
    program = "import sys; before = set(sys.modules); import zoo; print(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "zoo" in result.stdout.split()
    assert not {"torch", "numpy", "PIL", "pydantic", "typer", "zoo.api"} & set(result.stdout.split())


def test_an_unknown_attribute_of_zoo_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'lode'"):
        _ = zoo.lode


def test_the_mask_is_that_of_the_predictor(model: zoo.Model, tiny_bundle: Path) -> None:
    mask = model(IMAGE)
    assert (mask.shape, mask.dtype) == ((48, 80), np.uint8)
    assert len(np.unique(mask)) > 1
    assert np.array_equal(mask, load_predictor(tiny_bundle).predict(IMAGE))


def test_classes_and_palette_are_those_of_the_bundle(model: zoo.Model, tiny_bundle: Path) -> None:
    config = load_config(tiny_bundle)
    assert model.classes == config.names
    assert model.palette == config.palette
    assert repr(model).startswith("Model(7 classes, eager: PyTorch ")


def test_arrays_images_and_files_give_the_same_mask(model: zoo.Model, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    masks = model([IMAGE, Image.fromarray(IMAGE), tmp_path / "image.png", str(tmp_path / "image.png")])
    assert len(masks) == 4
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert [mask.shape for mask in model((IMAGE, IMAGE[:20]))] == [(48, 80), (20, 80)]
    assert model([]) == []


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "La"])
def test_images_of_every_mode_of_8_bits_are_converted(mode: str, model: zoo.Model) -> None:
    image = Image.fromarray(IMAGE)
    step = image.convert("LA") if mode in ("La", "PA") else image
    changed = step.convert(mode)
    assert changed.mode == mode
    as_rgb = (step if mode in ("La", "PA") else changed).convert("RGB")
    assert np.array_equal(model(changed), model(np.asarray(as_rgb)))


def test_an_image_that_is_transparent_in_places_is_refused(model: zoo.Model, tmp_path: Path) -> None:
    image = Image.fromarray(IMAGE).convert("RGBA")
    image.putpixel((3, 4), (0, 0, 0, 128))
    image.save(tmp_path / "cut.png")
    for each in (image, tmp_path / "cut.png"):
        with pytest.raises(InvalidImageError, match=r"is transparent in places, .*: flatten it"):
            model(each)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_an_image_of_more_than_8_bits_is_refused(mode: str, model: zoo.Model) -> None:
    with pytest.raises(InvalidImageError, match=f"more than 8 bits per channel .{mode}., expected 8"):
        model(Image.new(mode, (8, 8)))


def test_a_file_is_turned_upright_and_an_image_is_not(model: zoo.Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
    assert model(tmp_path / "turned.png").shape == (80, 48)
    assert model(Image.open(tmp_path / "turned.png")).shape == (48, 80)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("gone.jpg", "gone.jpg cannot be read .*No such file"),
        (".", "cannot be read"),
        ("notes.txt", "is not an image that can be read"),
        (None, "got a NoneType, expected a"),
        (7, "got a int, expected a"),
        (IMAGE / 255, "dtype float64, expected"),
        (IMAGE[..., 0], r"shape \(48, 80\)"),
        (IMAGE[None], r"shape \(1, 48, 80, 3\)"),
        ([IMAGE, None], "got a NoneType"),
    ],
)
def test_what_is_no_image_is_an_error_of_one_line(image: Any, message: str, model: zoo.Model) -> None:
    Path("notes.txt").write_text("no image")
    with pytest.raises(InvalidImageError, match=message) as caught:
        model(image)
    assert "\n" not in str(caught.value)


def test_confidence_comes_with_the_mask(model: zoo.Model) -> None:
    mask, confidence = model.predict_with_confidence(Image.fromarray(IMAGE))
    assert np.array_equal(mask, model(IMAGE))
    assert confidence is not None
    assert (confidence.shape, confidence.dtype) == ((48, 80), np.uint8)


def test_an_overlay_shows_the_image_where_the_mask_is_black(model: zoo.Model) -> None:
    mask = np.zeros((48, 80), np.uint8)
    assert np.array_equal(np.asarray(model.overlay(IMAGE, mask)), IMAGE)
    mask[:, 40:] = 1
    colored = np.asarray(model.overlay(IMAGE, mask, alpha=1.0))
    assert (colored[:, 50:] == model.palette[1]).all()
    assert np.array_equal(np.asarray(model.overlay(IMAGE)), np.asarray(model.overlay(IMAGE, model(IMAGE))))


def test_a_mask_of_another_image_cannot_be_laid_over(model: zoo.Model) -> None:
    with pytest.raises(InvalidImageError, match=r"shape \(8, 8\), expected that of the image, \(48, 80\)"):
        model.overlay(IMAGE, np.zeros((8, 8), np.uint8))


def test_a_run_is_loaded_by_its_bundle(tiny_bundle: Path, model: zoo.Model) -> None:
    shutil.copytree(tiny_bundle, Path("runs/eln/bundle"))
    Path("runs/eln/recipe.json").write_text("{}")
    assert np.array_equal(zoo.load("runs/eln")(IMAGE), model(IMAGE))


def test_an_artifact_runs_in_its_runtime(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    loaded = zoo.load(write_onnx(tmp_path / "model.onnx"), device="cpu", threads=1)
    assert loaded.predictor.backend == "ort"
    assert loaded.classes == ("dark", "bright")
    assert loaded(np.full((64, 64, 3), 200, np.uint8)).all()


def test_a_model_of_a_shared_folder_is_loaded_by_its_name(
    tiny_bundle: Path, model: zoo.Model, tmp_path: Path
) -> None:
    name = f"file:{tmp_path.as_posix()}/share/tiny"
    pushed = push(tiny_bundle, name, PushOptions(license="mit"))
    assert np.array_equal(zoo.load(name)(IMAGE), model(IMAGE))
    assert np.array_equal(zoo.load(f"{name}@{pushed.revision}", offline=True)(IMAGE), model(IMAGE))


def test_offline_a_model_that_was_never_pulled_is_an_error() -> None:
    with pytest.raises(RegistryError, match="owner/name is not in the cache"):
        zoo.load("owner/name", offline=True)


@pytest.mark.parametrize("name", ["runs/gone", "eln-voc-1-8-resnet50", "gone.onnx", ""])
def test_a_name_of_nothing_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(BundleError) as caught:
        zoo.load(name)
    assert "\n" not in str(caught.value)


def test_a_misspelled_alias_brings_the_nearest() -> None:
    with pytest.raises(BundleError, match="nearest in zoo list: eln-voc-1/8-resnet50, "):
        zoo.load("eln-voc-1-8-resnet50")


def test_a_row_without_weights_says_how_they_are_made() -> None:
    with pytest.raises(BundleError, match="zoo train eln --recipe eln_voc_1-8 --data voc:DIR"):
        zoo.load("eln-voc-1/8-resnet50")


def test_the_options_reach_the_backend(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="backend trt9 cannot run"):
        zoo.load(tiny_bundle, backend="trt9")
    with pytest.raises(BundleError, match="precision int8 needs an exported file"):
        zoo.load(tiny_bundle, precision="int8", device="cpu")


def test_a_classifier_has_no_masks(tiny_bundle: Path, tmp_path: Path) -> None:
    classifier = ImageClassifier(ClassifierConfig(encoder="test_resnet", num_classes=7, imgsz=(32, 32)))
    config = load_config(tiny_bundle).model_copy(update={"deployable": classifier.config})
    save_bundle(tmp_path / "tags", classifier, config, "# Tags\n")
    assert json.loads((tmp_path / "tags" / "config.json").read_text())["deployable"]["kind"] == "classifier"
    with pytest.raises(BundleError, match="predicts no masks"):
        zoo.load(tmp_path / "tags")
