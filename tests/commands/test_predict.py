from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.api.predict import predict
from zoo.classes import Classes
from zoo.data.shapes import ShapesSource
from zoo.errors import BundleError, ZooError
from zoo.images import read_rgb
from zoo.predict.inputs import find_inputs
from zoo.predict.outputs import make_jobs, write_output
from zoo.predictors.load import load_predictor
from zoo.predictors.tiles import Tiling, predict_tiles
from zoo.serve.server.http.encode import encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from typer.testing import Result

    Zoo = Callable[..., Result]

ORIENTATION = 0x0112


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (50, 40)) -> Path:
    """Write a picture of a gradient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = Image.linear_gradient("L").resize(size)
    ramp.convert(mode).save(path)
    return path


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_a_mask_is_an_indexed_image_in_the_colors_of_the_classes(zoo: Zoo, shapes_bundle: Path) -> None:
    image = photo(Path("photo.jpg"))
    result = zoo("predict", shapes_bundle, image, "--out", "out")
    assert result.exit_code == 0, result.output
    with Image.open("out/photo.png") as mask:
        assert mask.mode == "P"
        palette = np.array(mask.getpalette()).reshape(-1, 3)
    predictor = load_predictor(shapes_bundle)
    assert np.array_equal(pixels(Path("out/photo.png")), predictor.predict(read_rgb(image)))
    assert palette.tolist() == [list(color) for color in predictor.classes.palette]


@pytest.mark.parametrize("where", ["empty", "no-such-folder", "*.tif"])
def test_inputs_without_images_are_refused_before_the_network_is_loaded(
    zoo: Zoo, shapes_bundle: Path, where: str
) -> None:
    bundle = Path(shutil.copytree(shapes_bundle, "bundle"))
    (bundle / "model.safetensors").write_bytes(b"not read")
    Path("empty").mkdir()
    result = zoo("predict", bundle, where, "--out", "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZooError)
    assert str(result.exception).startswith((f"{where} matches no images", f"{where} does not exist"))
    with pytest.raises(ZooError, match=r"matches no images|does not exist"):
        predict(bundle, where)
    assert not list(Path().glob("out/*"))


def test_the_json_tells_files_areas_and_times(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("predict", shapes_bundle, photo(Path("photo.jpg")), "--overlay", "--json")
    found = json.loads(result.stdout)
    [image] = found["images"]
    assert found["errors"] == []
    assert image["size"] == [40, 50]
    assert image["ms"] > 0
    assert sum(image["areas"].values()) == pytest.approx(1)
    assert image["mask"] == str(Path("predictions/photo.png"))
    assert image["overlay"] == str(Path("predictions/photo.overlay.png"))
    assert pixels(Path(image["overlay"])).shape[1] >= 480


def test_confidence_is_a_gray_image_beside_the_mask_at_the_images_size(zoo: Zoo, shapes_bundle: Path) -> None:
    image = photo(Path("photo.jpg"), size=(90, 70))
    result = zoo("predict", shapes_bundle, image, "--confidence", "--json")
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)["images"]
    assert found["confidence"] == str(Path("predictions/photo.confidence.png"))
    with Image.open(found["confidence"]) as picture:
        assert (picture.mode, picture.size) == ("L", (90, 70))
    expected = load_predictor(shapes_bundle).predict_with_confidence(read_rgb(image))
    assert np.array_equal(pixels(Path(found["confidence"])), expected.confidence)
    assert np.array_equal(pixels(Path(found["mask"])), expected.mask)
    assert len(np.unique(expected.confidence)) > 10


def test_without_the_option_there_is_no_confidence(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("predict", shapes_bundle, photo(Path("photo.jpg")), "--json")
    assert json.loads(result.stdout)["images"][0]["confidence"] is None
    assert [path.name for path in Path("predictions").glob("*.png")] == ["photo.png"]


def test_confidence_of_a_file_that_gives_masks_only_is_an_error(
    zoo: Zoo, write_onnx: Callable[..., Path]
) -> None:
    result = zoo("predict", write_onnx(Path("model.onnx")), photo(Path("photo.jpg")), "--confidence")
    assert isinstance(result.exception, BundleError)
    assert "this ort artifact only returns masks: predict with the bundle" in str(result.exception)
    assert not Path("predictions").exists()


@pytest.mark.parametrize("count", [3, 300])
def test_a_mask_is_the_file_that_a_server_answers_with(count: int, tmp_path: Path) -> None:
    classes = Classes.of(tuple(map(str, range(count))))
    mask = (
        np.random.default_rng(0).integers(count, size=(9, 12)).astype(np.uint8 if count < 256 else np.int32)
    )
    write_output(tmp_path / "mask.png", "mask", mask, classes)
    assert (tmp_path / "mask.png").read_bytes() == encoder("png", classes, "", "")(None, mask)


def test_a_mask_of_many_classes_is_a_16_bit_image(tmp_path: Path) -> None:
    mask = np.array([[0, 255, 299]], np.int32)
    write_output(tmp_path / "mask.png", "mask", mask, Classes.of(tuple(map(str, range(300)))))
    assert pixels(tmp_path / "mask.png").tolist() == mask.tolist()


def test_the_built_in_data_are_predicted_up_to_the_limit(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("predict", shapes_bundle, "shapes", "--limit", "3", "--json")
    assert [image["input"] for image in json.loads(result.stdout)["images"]] == list(
        ShapesSource().ids("val")[:3]
    )
    assert len(list(Path("predictions").rglob("*.png"))) == 3


def test_a_folder_is_searched_and_its_subfolders_are_kept(zoo: Zoo, shapes_bundle: Path) -> None:
    for name in ("photos/a.jpg", "photos/deep/a.png", "photos/.hidden/b.png"):
        photo(Path(name))
    Path("photos/notes.txt").write_text("no image")
    zoo("predict", shapes_bundle, "photos", "--out", "photos/out")
    again = zoo("predict", shapes_bundle, "photos", "--out", "photos/out", "--json")
    assert [image["mask"] for image in json.loads(again.stdout)["images"]] == [
        str(Path("photos/out/a.png")),
        str(Path("photos/out/deep/a.png")),
    ]


def test_a_pattern_names_images(zoo: Zoo, shapes_bundle: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "b/3.png"):
        photo(Path(name))
    found = json.loads(zoo("predict", shapes_bundle, "*/*.jpg", "--json").stdout)["images"]
    assert [image["input"] for image in found] == [str(Path("a/1.jpg")), str(Path("b/2.jpg"))]


def named(*names: str, kinds: tuple[str, ...] = ("mask",)) -> list[str]:
    out = Path("out")
    jobs = make_jobs(find_inputs([str(photo(Path(name))) for name in names], 1, out), out, kinds)
    return [(out / job.name).as_posix() for job in jobs]


@pytest.mark.usefixtures("zoo")
def test_results_of_the_same_name_are_told_apart_by_folder_then_by_suffix() -> None:
    assert named("a/x.jpg", "b/y.jpg") == ["out/x", "out/y"]
    assert named("a/x.jpg", "b/x.jpg") == ["out/a/x", "out/b/x"]
    assert named("a/x.jpg", "a/x.png", "b/x.jpg") == ["out/a/x.jpg", "out/a/x.png", "out/b/x.jpg"]
    assert named("a/x.jpg", "b/X.jpg") == ["out/a/x", "out/b/X"]


@pytest.mark.usefixtures("zoo")
def test_an_overlay_is_not_written_over_a_mask() -> None:
    kinds = ("mask", "overlay")
    assert named("a/x.jpg", "a/x.overlay.jpg", kinds=kinds) == ["out/x.jpg", "out/x.overlay.jpg"]
    assert named("a/x.jpg", "a/x.overlay.jpg") == ["out/x", "out/x.overlay"]


@pytest.mark.usefixtures("zoo")
def test_an_image_that_is_named_twice_is_predicted_once() -> None:
    photo(Path("a/x.jpg"))
    assert len(find_inputs(["a/x.jpg", "a", "a/*.jpg", str(Path("a/x.jpg").absolute())], 1, Path("out"))) == 1


@pytest.mark.usefixtures("zoo")
def test_results_of_images_above_the_working_folder_lie_in_the_folder_of_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("work").mkdir()
    for name in ("a/x.jpg", "work/b/x.jpg", "store/real.jpg"):
        photo(Path(name))
    Path("work/link.jpg").symlink_to("../store/real.jpg")
    monkeypatch.chdir("work")
    jobs = make_jobs(find_inputs(["../a", "b"], 1, Path("../out")), Path("../out"), ("mask",))
    assert [job.name for job in jobs] == ["a/x", "work/b/x"]
    assert len(find_inputs(["b/x.jpg", "../work/b/x.jpg", "../a/../work/b"], 1, Path("out"))) == 1
    assert [each.outputs[0] for each in find_inputs(["../work/link.jpg"], 1, Path("out"))] == ["link"]


def test_a_result_never_replaces_an_input(zoo: Zoo, shapes_bundle: Path) -> None:
    before = photo(Path("x.png")).read_bytes()
    result = zoo("predict", shapes_bundle, "x.png", "--out", ".")
    assert isinstance(result.exception, ZooError)
    assert "would replace an input: choose another folder with --out" in str(result.exception)
    assert Path("x.png").read_bytes() == before


def test_without_a_model_the_newest_run_predicts(zoo: Zoo, shapes_bundle: Path) -> None:
    run = Path("runs/eln-1")
    shutil.copytree(shapes_bundle, run / "bundle")
    (run / "recipe.json").write_text("{}")
    photo(Path("x.jpg"))
    found = json.loads(zoo("predict", "x.jpg", "--json").stdout)
    assert found["model"] == str(run / "bundle")
    assert len(found["images"]) == 1


def test_a_model_without_an_input_is_a_usage_error(zoo: Zoo, shapes_bundle: Path) -> None:
    result = zoo("predict", shapes_bundle)
    assert result.exit_code == 2
    assert "no INPUT" in result.stderr


def test_a_first_argument_that_is_nothing_is_taken_for_a_model(zoo: Zoo) -> None:
    result = zoo("predict", "runs/typo", "x.jpg")
    assert isinstance(result.exception, BundleError)
    assert str(result.exception).startswith(f"{Path('runs/typo')} does not exist, expected a run")


@pytest.mark.parametrize("command", ["export", "serve", "push"])
def test_an_address_is_no_model_of_this_machine(zoo: Zoo, command: str) -> None:
    result = zoo(command, "http://localhost:8000/eln", *(["team/eln"] if command == "push" else []))
    assert isinstance(result.exception, BundleError)
    assert str(result.exception).startswith("got the address http://localhost:8000/eln, expected a run")


@pytest.mark.parametrize("text", ["gone.jpg", "gone/*.jpg"])
def test_an_input_that_names_nothing_is_an_error(zoo: Zoo, shapes_bundle: Path, text: str) -> None:
    result = zoo("predict", shapes_bundle, text)
    assert isinstance(result.exception, ZooError)
    assert str(result.exception).startswith(text)


def test_a_file_in_place_of_the_output_folder_is_an_error(zoo: Zoo, shapes_bundle: Path) -> None:
    photo(Path("x.jpg"))
    Path("out").write_text("")
    result = zoo("predict", shapes_bundle, "x.jpg", "--out", "out")
    assert isinstance(result.exception, ZooError)
    assert str(result.exception) == (
        "out cannot be written (Not a directory), expected a folder: choose another"
    )


def test_a_broken_image_is_named_and_the_others_are_predicted(zoo: Zoo, shapes_bundle: Path) -> None:
    photo(Path("good.jpg"))
    Path("bad.jpg").write_bytes(photo(Path("whole.jpg"), size=(200, 200)).read_bytes()[:900])
    result = zoo("predict", shapes_bundle, "bad.jpg", "good.jpg")
    assert result.exit_code == 1
    assert "error: bad.jpg cannot be read" in result.stderr
    assert "not predicted: bad.jpg" in result.stdout
    assert sorted(path.name for path in Path("predictions").glob("*.png")) == ["good.png"]


def test_tiles_of_an_image_give_the_mask_of_its_original_size_and_another_tile_predicts_anew(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    image = photo(Path("photo.png"), size=(150, 100))
    whole = zoo("predict", shapes_bundle, image, "--tile", "256", "--out", "whole", "--confidence")
    assert whole.exit_code == 0, whole.output
    predictor = load_predictor(shapes_bundle)
    expected = predictor.run(read_rgb(image)[None])[0]
    assert np.array_equal(pixels(Path("whole/photo.png")), expected)  # one tile: one pass
    assert pixels(Path("whole/photo.confidence.png")).shape == (100, 150)

    result = zoo("predict", shapes_bundle, image, "--tile", "64", "--overlap", "0.5", "--out", "out")
    assert result.exit_code == 0, result.output
    tiles = predict_tiles(predictor, read_rgb(image), Tiling(64, 0.5), batch=8).mask
    assert np.array_equal(pixels(Path("out/photo.png")), tiles)
    again = zoo("predict", shapes_bundle, image, "--tile", "64", "--overlap", "0.5", "--out", "out", "--json")
    assert json.loads(again.stdout)["kept"] == 1
    other = zoo("predict", shapes_bundle, image, "--tile", "96", "--out", "out", "--json")
    assert json.loads(other.stdout)["kept"] == 0


def test_options_of_tiles_that_do_not_fit_are_usage_errors(zoo: Zoo, shapes_bundle: Path) -> None:
    image = photo(Path("photo.png"))
    for arguments, message in (
        (("--overlap", "0.5"), "without --tile"),
        (("--tile", "64", "--ray"), "expected one of both"),
        (("--tile", "8"), "greater than or equal to 32"),
    ):
        result = zoo("predict", shapes_bundle, image, *arguments)
        assert result.exit_code == 2
        assert message in result.output


def test_outputs_that_are_not_asked_for_again_do_not_outlive_the_mask_that_they_show(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    image = photo(Path("photo.png"), size=(150, 100))
    zoo("predict", shapes_bundle, image, "--overlay", "--confidence", "--out", "out")
    edited = Path("out/photo.confidence.png")
    edited.write_bytes(b"edited since")
    assert zoo("predict", shapes_bundle, image, "--tile", "64", "--out", "out").exit_code == 0
    assert not Path("out/photo.overlay.png").exists()
    assert edited.read_bytes() == b"edited since"
