"""`zoo label`: a folder with images to label, reasons and pre-annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.bundles import calibrate_by
from zoo.bundle.bundle import load_config
from zoo.bundle.reliability import Calibration
from zoo.cli import app
from zoo.data.folder import FolderSource
from zoo.data.partition import make_partition
from zoo.images import read_rgb
from zoo.predictors.load import load_predictor
from zoo.preprocess import resize_image
from zoo.train.recipe.read import load_recipe
from zoo.train.runs.folder import RunFolder

if TYPE_CHECKING:
    from typer.testing import Result


def zoo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def chosen(*arguments: object) -> dict[str, Any]:
    result = zoo("label", *arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(cells).resize((64, 48)).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path, tiny_bundle: Path) -> Path:
    """Return a data set of the bundle's classes: two images with masks, four and two copies without."""
    folder = tmp_path / "data"
    for name in ("a", "b"):
        picture(folder / f"train/images/{name}.png", ord(name))
        (folder / "train/masks").mkdir(exist_ok=True)
        Image.new("L", (64, 48)).save(folder / f"train/masks/{name}.png")
    for name in ("c", "s/d", "e", "f"):
        picture(folder / f"unlabeled/{name}.png", ord(name[-1]))
    shutil.copy(folder / "train/images/a.png", folder / "unlabeled/copy.png")
    with Image.open(folder / "train/images/b.png") as image:
        image.save(folder / "unlabeled/again.jpg", quality=90)
    (folder / "data.toml").write_text(f"names = {json.dumps(list(load_config(tiny_bundle).names))}\n")
    return folder


def test_the_predicted_masks_of_chosen_images_come_back_bit_for_bit(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    value = chosen(tiny_bundle, data, "--count", 4, "--out", tmp_path / "out")
    files = {f"train/{Path(one['file']).relative_to('images').with_suffix('')}" for one in value["images"]}
    assert files == {"train/c", "train/s/d", "train/e", "train/f"}
    predictor = load_predictor(tiny_bundle)
    for file, *more in (["cvat.xml"], ["coco.json"], ["label_studio.json", "--predictions"]):
        copy = shutil.copytree(data, tmp_path / file)
        result = zoo("data", "import", tmp_path / "out" / file, copy, *more)
        assert result.exit_code == 0, result.output
        source = FolderSource(str(copy))
        assert source.ids("train") == ("train/a", "train/b", "train/c", "train/e", "train/f", "train/s/d")
        assert source.ids("unlabeled") == ("unlabeled/again", "unlabeled/copy")
        for id_ in files:
            assert np.array_equal(source.read_mask(id_), predictor.predict(source.read_image(id_)))
        partition = make_partition(source, str(tmp_path / "out/partition.txt"), 0)
        assert partition.labeled == source.ids("train")


def test_copies_of_labeled_images_are_left_out_and_recorded(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    value = chosen(tiny_bundle, data, "--count", 6, "--out", tmp_path / "out", "--strategy", "core-set")
    assert len(value["images"]) == 4
    assert {one["image"]: one["of"] for one in value["near_duplicates"]} == {
        "unlabeled/copy": "train/a",
        "unlabeled/again": "train/b",
    }
    out = tmp_path / "out"
    assert json.loads((out / "choice.json").read_text())["images"] == value["images"]
    assert (out / "chosen.txt").read_text().split() == [one["image"] for one in value["images"]]
    for one in value["images"]:
        copy = data / "unlabeled" / Path(one["file"]).relative_to("images")
        assert (out / one["file"]).read_bytes() == copy.read_bytes()


def test_the_page_shows_three_pictures_and_the_reason_of_each_image(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    value = chosen(tiny_bundle, data, "--count", 2, "--out", tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 2
    for one in value["images"]:
        assert one["reason"] in page
        assert "the model expects errors in" in one["reason"]
        assert "nearest labeled or chosen image: " in one["reason"]


def test_unreliability_is_one_minus_the_mean_of_the_score(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    value = chosen(tiny_bundle, data, "--count", 4, "--out", tmp_path / "out")
    predictor = load_predictor(tiny_bundle)
    for one in value["images"]:
        batch = resize_image(
            read_rgb(tmp_path / "out" / one["file"]), predictor.preprocessing.model_size(48, 64)
        )
        confidence = predictor.infer(batch[None], ("confidence",))["confidence"]
        assert one["unreliability"] == pytest.approx(1 - confidence.mean() / 255, abs=1e-4)


def test_the_calibrated_reliability_is_used_where_the_model_has_it(
    data: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    calibration = Calibration(score="softmax", knots=((0.0, 0.2), (1.0, 0.2)))
    calibrate_by(bundle_copy, calibration)
    value = chosen(bundle_copy, data, "--count", 1, "--out", tmp_path / "out")
    assert (value["score"], value["images"][0]["unreliability"]) == ("reliability", 0.8)
    value = chosen(bundle_copy, data, "--count", 1, "--out", tmp_path / "o", "--score", "confidence")
    assert value["score"] == "confidence"


def test_a_pool_of_images_leaves_out_what_is_labeled_elsewhere_and_broken_files(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "photos"
    picture(pool / "x/1.png", 1)
    picture(pool / "2.png", 2)
    shutil.copy(data / "train/images/a.png", pool / "3.png")
    (pool / "4.png").write_bytes(b"broken")
    options = ("--count", 4, "--out", tmp_path / "out", "--labeled", data, "--strategy", "entropy")
    value = chosen(tiny_bundle, pool, *options)
    assert {one["file"] for one in value["images"]} == {"images/x/1.png", "images/2.png"}
    assert all(one["reason"].startswith("entropy ") for one in value["images"])
    assert [Path(name).name for name in value["unreadable"]] == ["4.png"]
    lines = (tmp_path / "out/partition.txt").read_text().split()
    assert set(lines) == {"train/a", "train/b", "train/x/1", "train/2"}


def test_each_video_is_chosen_from_before_a_second_frame_of_one(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "a_3", "a_4", "b_1", "c_1"):
        picture(tmp_path / f"pool/{name}.png", ord(name[0]) + 7 * int(name[-1]))
    options = (
        "--out",
        tmp_path / "out",
        "--groups",
        "video",
        "--strategy",
        "core-set",
        "--labeled",
        "shapes",
    )
    value = chosen(tiny_bundle, tmp_path / "pool", "--count", 4, *options, "--partition", 2)
    assert {Path(one["file"]).name[0] for one in value["images"][:3]} == {"a", "b", "c"}
    assert len(value["images"]) == 4


def test_the_partition_of_the_run_says_which_masks_count(
    tiny_bundle: Path, tiny_folder: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    source = FolderSource(str(tiny_folder))
    run.path.mkdir()
    run.write_recipe(load_recipe(tiny_recipe), source.classes)
    partition = make_partition(source, "4", 0)
    partition.write(run.partition)
    shutil.copytree(tiny_bundle, run.bundle)
    value = chosen(run.path, tiny_folder, "--count", 6, "--out", tmp_path / "out")
    assert {one["image"] for one in value["images"]} == set(partition.unlabeled)
    assert value["labeled"] == 4
    again = make_partition(source, str(tmp_path / "out/partition.txt"), 0)
    assert len(again.labeled) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["POOL", "--count", 7], "--count 7: got more images than the 6 candidates, expected 1..6"),
        (
            ["POOL", "--count", 2, "--score", "mask"],
            "--score mask: got no such score of this model, expected confidence",
        ),
        (["POOL", "--labeled", "shapes"], "--labeled shapes: got it beside the data set"),
        (["shapes"], "shapes: got masks for all 480 images, expected some without"),
        (["POOL", "--out", "POOL"], "got a folder with files, expected a new or an empty one"),
        (["POOL", "--count", 2, "--groups", "x"], "--groups 'x' has no group"),
        (["http://localhost:1", "POOL"], "http://localhost:1 is not a bundle, expected a run or bundle"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_leaves_no_folder(
    data: Path, tiny_bundle: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    before = set(tmp_path.iterdir())
    words = [data if word == "POOL" else word for word in arguments]
    model = [] if str(words[0]).startswith("http") else [tiny_bundle]
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    result = zoo("label", *model, *words, *out)
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert set(tmp_path.iterdir()) == before


def test_an_image_that_vanishes_before_it_is_copied_leaves_nothing_behind(
    data: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("zoo.label.folder._copy", vanish)
    before = set(tmp_path.iterdir())
    assert zoo("label", tiny_bundle, data, "--count", 2, "--out", tmp_path / "out").exit_code == 1
    assert set(tmp_path.iterdir()) == before


def held_out(data: Path) -> Path:
    """Add an image of val, and return it."""
    image = picture(data / "val/images/v.png", ord("v"))
    (data / "val/masks").mkdir()
    Image.new("L", (64, 48)).save(data / "val/masks/v.png")
    return image


@pytest.mark.parametrize("is_data", [True, False])
def test_copies_of_images_of_val_are_left_out(
    data: Path, tiny_bundle: Path, tmp_path: Path, *, is_data: bool
) -> None:
    image = held_out(data)
    pool = data / "unlabeled"
    shutil.copy(image, pool / "same.png")
    with Image.open(image) as opened:
        opened.save(pool / "alike.jpg", quality=90)
    options = [data] if is_data else [pool, "--labeled", data]
    value = chosen(tiny_bundle, *options, "--count", 8, "--out", tmp_path / "out")
    assert {Path(one["file"]).name for one in value["images"]} == {"c.png", "d.png", "e.png", "f.png"}
    of_val = {Path(one["image"]).stem for one in value["near_duplicates"] if one["of"] == "val/v"}
    assert of_val == {"same", "alike"}
    assert value["held_out"] == 1
    assert "val/v" not in (tmp_path / "out/partition.txt").read_text()


def test_a_pool_of_which_nothing_is_left_is_an_error_with_the_counts(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    shutil.copy(data / "train/images/a.png", pool / "1.png")
    shutil.copy(held_out(data), pool / "2.png")
    (pool / "3.png").write_bytes(b"broken")
    result = zoo("label", tiny_bundle, pool, "--labeled", data, "--count", 2, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert str(result.exception) == (
        "no image is left to label: got 3 candidates, 1 identical or nearly so to labeled images and 1 "
        "identical or nearly so to val images and 1 unreadable, expected at least one other image: add new "
        "images to the pool"
    )
    assert not (tmp_path / "out").exists()


def test_the_partition_names_images_as_they_are_after_the_import(
    data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    pool.mkdir()
    shutil.copy(data / "unlabeled/s/d.png", pool / "d.png")
    picture(pool / "c.png", 99)  # another image than unlabeled/c
    chosen(tiny_bundle, pool, "--labeled", data, "--count", 2, "--out", out)
    assert set((out / "partition.txt").read_text().split()) == {"train/a", "train/b", "train/c", "train/s/d"}
    result = zoo("data", "import", out / "cvat.xml", data, "--images", out / "images")
    assert result.exit_code == 0, result.output
    source = FolderSource(str(data))
    assert make_partition(source, str(out / "partition.txt"), 0).labeled == source.ids("train")


def test_the_page_has_a_legend_and_messages_count_and_warn(
    data: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "unlabeled/x.png").write_bytes(b"broken")
    result = zoo("label", tiny_bundle, data, "--count", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 image could not be read" in result.output
    assert [one.levelname for one in caplog.records if one.getMessage().startswith("warning: ")] == [
        "WARNING"
    ]
    page = (tmp_path / "out/report.html").read_text()
    classes = load_predictor(tiny_bundle).classes
    for name, color in zip(classes.names, classes.palette, strict=True):
        assert f'style="background:rgb{color}"></i>{name}</span>' in page
    assert "the redder, the more" in page
    assert "reliability by reliability" not in page
    assert "<h1>1 image to label" in page
