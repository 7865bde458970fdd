"""Many images: they come in batches, and what an earlier run made of the same files is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo import progress
from zoo.bundle.manifest import sha256
from zoo.commands.console import log_to_stderr
from zoo.errors import ZooError
from zoo.images import read_rgb
from zoo.predict.journal import NAME, Journal
from zoo.predictors.load import load_predictor
from zoo.progress import Progress, pace, stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]
    WriteOnnx = Callable[..., Path]

SIZES = ((64, 48), (48, 64), (33, 47), (90, 61), (64, 64))


def write_images(folder: Path, count: int) -> list[Path]:
    """Write images of noise in some sizes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    paths = [folder / f"{index:04}.png" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(random.integers(0, 256, (*SIZES[index % len(SIZES)], 3), np.uint8)).save(path)
    return paths


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def lines(out: Path = Path("predictions")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / NAME).read_text().splitlines()]


@pytest.fixture
def model(zoo: Zoo, write_onnx: WriteOnnx) -> Path:  # noqa: ARG001 - in its empty folder
    return write_onnx(Path("model.onnx"))


@pytest.fixture
def again(zoo: Zoo, model: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that predicts the folder `in` and returns what it tells."""

    def run(*options: object) -> dict[str, Any]:
        result = zoo("predict", model, "in", "--json", *options)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found | {"remarks": result.stderr}

    return run


@pytest.mark.parametrize("batch", [(), ("--batch", 1), ("--batch", 4)])
def test_the_masks_are_those_of_single_predictions(zoo: Zoo, shapes_bundle: Path, batch: tuple[Any]) -> None:
    paths = write_images(Path("in"), 12)
    result = zoo("predict", shapes_bundle, "in", "--json", *batch)
    assert [image["input"] for image in json.loads(result.stdout)["images"]] == [str(path) for path in paths]
    predictor = load_predictor(shapes_bundle)
    for path in paths:
        assert np.array_equal(pixels(Path("predictions") / path.name), predictor.predict(read_rgb(path)))


def test_the_journal_tells_the_model_once_and_each_image(
    again: Callable[..., dict[str, Any]], model: Path
) -> None:
    [first, second] = write_images(Path("in"), 2)
    again()
    header, *images = lines()
    assert header == {"format": "zoo predictions 1", "model": str(model), "sha256": sha256(model)}
    by_input = {image["input"]: image for image in images}
    assert set(by_input) == {str(first.absolute()), str(second.absolute())}
    image = by_input[str(first.absolute())]
    assert image["mask"] == "0000.png"
    assert (image["bytes"], image["mtime_ns"]) == (first.stat().st_size, first.stat().st_mtime_ns)
    assert image["size"] == [64, 48]
    assert sum(image["areas"].values()) == pytest.approx(1)


def test_what_is_there_is_kept(again: Callable[..., dict[str, Any]]) -> None:
    write_images(Path("in"), 3)
    first = again()
    before = {path: path.stat().st_mtime_ns for path in Path("predictions").glob("*.png")}
    second = again()
    assert (first["kept"], second["kept"], second["predicted"]) == (0, 3, 0)
    assert second["images"] == first["images"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "kept 3 of 3 images: this model predicted the same files (size and time)" in second["remarks"]
    third = again("--overwrite")
    assert (third["kept"], third["predicted"]) == (0, 3)
    assert len(lines()) == 4


def test_what_changed_is_predicted_again(again: Callable[..., dict[str, Any]]) -> None:
    paths = write_images(Path("in"), 4)
    again()
    os.utime(paths[0], ns=(0, 0))
    unfinished = Path("predictions/.0001.png.4321.tmp")
    Path("predictions/0001.png").rename(unfinished)
    Path("predictions/0002.png").write_bytes(b"")
    second = again()
    assert (second["kept"], second["predicted"]) == (1, 3)
    assert not unfinished.exists()
    assert len({line["input"] for line in lines()[1:]}) == 4
    assert again()["kept"] == 4


def test_a_result_that_was_not_wanted_before_is_made(again: Callable[..., dict[str, Any]]) -> None:
    write_images(Path("in"), 2)
    again()
    assert again("--overlay")["predicted"] == 2
    assert again("--overlay")["predicted"] == 0
    assert again()["kept"] == 2


def test_another_model_makes_all_anew(
    zoo: Zoo, again: Callable[..., dict[str, Any]], shapes_bundle: Path
) -> None:
    [path] = write_images(Path("in"), 1)
    again()
    result = zoo("predict", shapes_bundle, "in", "--json")
    assert json.loads(result.stdout)["kept"] == 0
    assert (
        "predictions has predictions of another model, or with other options: recomputing them"
        in result.stderr
    )
    expected = load_predictor(shapes_bundle).predict(read_rgb(path))
    assert np.array_equal(pixels(Path("predictions/0000.png")), expected)
    assert len(lines()) == 2


def test_images_of_other_inputs_stay_in_the_journal(zoo: Zoo, model: Path) -> None:
    write_images(Path("a"), 2)
    write_images(Path("b/deep"), 2)
    zoo("predict", model, "a")
    zoo("predict", model, "b")
    assert len(lines()) == 5
    assert json.loads(zoo("predict", model, "a", "--json").stdout)["kept"] == 2


def test_an_image_of_the_same_name_and_time_elsewhere_is_another_one(zoo: Zoo, model: Path) -> None:
    for folder in ("a", "b"):
        [path] = write_images(Path(folder), 1)
        os.utime(path, ns=(0, 0))
    zoo("predict", model, "a")
    assert json.loads(zoo("predict", model, "b", "--json").stdout)["kept"] == 0


def test_a_line_that_was_cut_short_is_dropped(again: Callable[..., dict[str, Any]]) -> None:
    write_images(Path("in"), 3)
    again()
    journal = Path("predictions") / NAME
    journal.write_bytes(journal.read_bytes()[:-20])
    assert again()["kept"] == 2
    assert len(lines()) == 4


def test_failures_are_listed_and_tried_again(zoo: Zoo, model: Path) -> None:
    write_images(Path("in"), 2)
    Path("in/bad.png").write_bytes(b"no image")
    for kept in (0, 2):
        result = zoo("predict", model, "in", "--json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert found["kept"] == kept
        assert [error["input"] for error in found["errors"]] == [str(Path("in/bad.png"))]
        assert "bad.png is not an image that can be read" in found["errors"][0]["error"]
        assert [line["input"] for line in lines() if "error" in line] == [str(Path("in/bad.png").absolute())]
        assert len(lines()) == 4


def test_an_image_whose_name_is_too_long_for_its_results_fails_alone(zoo: Zoo, model: Path) -> None:
    first, second = write_images(Path("images"), 2)
    first.rename(first.with_stem(250 * "x"))
    result = zoo("predict", model, "images", "--device", "cpu")
    assert result.exit_code == 1
    assert "has a name that is too long for its results: rename it" in " ".join(result.output.split())
    assert [path.name for path in Path("predictions").glob("*.png")] == [f"{second.stem}.png"]


def test_unfinished_files_of_a_killed_process_are_removed(zoo: Zoo, model: Path) -> None:
    [image] = write_images(Path("images"), 1)
    zoo("predict", model, "images", "--device", "cpu")
    Path("predictions", f"{image.stem}.png").unlink()
    for name in (".a.png.12.tmp", ".a.mask.tif.12.tmp", ".a.mask.mkv.12.tmp", "a.png.12.tmp"):
        Path("predictions", name).touch()
    zoo("predict", model, "images", "--device", "cpu")
    assert [path.name for path in Path("predictions").glob("*.tmp")] == ["a.png.12.tmp"]


def test_a_file_of_another_program_is_not_replaced(zoo: Zoo, model: Path) -> None:
    write_images(Path("in"), 1)
    Path("predictions").mkdir()
    (Path("predictions") / NAME).write_text('{"mine": 1}\n')
    result = zoo("predict", model, "in")
    assert isinstance(result.exception, ZooError)
    assert "was not written by zoo predict" in str(result.exception)
    assert (Path("predictions") / NAME).read_text() == '{"mine": 1}\n'
    assert zoo("predict", model, "in", "--overwrite").exit_code == 0


def test_two_commands_do_not_write_into_one_folder(zoo: Zoo, model: Path) -> None:
    write_images(Path("in"), 1)
    with Journal(Path("predictions"), {"sha256": ""}) as journal:
        journal.start()
        result = zoo("predict", model, "in")
    assert isinstance(result.exception, ZooError)
    assert "another zoo predict writes to predictions: wait for it" in str(result.exception)
    assert zoo("predict", model, "in").exit_code == 0


def test_a_folder_that_cannot_be_written_to_is_an_error(zoo: Zoo, model: Path) -> None:
    write_images(Path("in"), 1)
    Path(f"predictions/.{NAME}.lock").mkdir(parents=True)
    result = zoo("predict", model, "in")
    assert isinstance(result.exception, ZooError)
    assert str(result.exception).startswith(
        "predictions cannot be written to (Is a directory): choose another"
    )


def test_results_in_a_searched_folder_are_no_inputs(zoo: Zoo, model: Path) -> None:
    write_images(Path("in"), 2)
    for _ in range(2):
        result = zoo("predict", model, "in/**/*.png", "--out", "in/masks", "--json")
        assert len(json.loads(result.stdout)["images"]) == 2


def test_an_image_of_a_size_that_the_file_does_not_take_fails_alone(zoo: Zoo, write_onnx: WriteOnnx) -> None:
    Path("in").mkdir()
    Image.new("RGB", (64, 32)).save("in/b.png")
    frozen = write_onnx(Path("frozen.onnx"), height=64)
    result = zoo("predict", frozen, "in")
    assert result.exit_code == 1
    assert "got an image of 32 x 64, expected 64 x" in result.stderr
    assert not list(Path("predictions").glob("*.png"))

    Image.new("RGB", (64, 64)).save("in/a.png")
    result = zoo("predict", frozen, "in", "--json", "--batch", 1)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [image["input"] for image in found["images"]] == [str(Path("in/a.png"))]
    assert [error["input"] for error in found["errors"]] == [str(Path("in/b.png"))]


def test_the_table_of_many_images_is_short(zoo: Zoo, model: Path) -> None:
    [path] = write_images(Path("in"), 1)
    for index in range(1, 60):
        os.link(path, f"in/{index:04}.png")
    result = zoo("predict", model, "in")
    assert f"and 10 more: {Path('predictions') / NAME}" in result.stdout
    assert result.stdout.count("48x64") == 50


def test_progress_tells_rate_and_time_left() -> None:
    assert pace(1000, 4000, 50.0) == "1,000 of 4,000 images, 20.0 images/s, 2:30 left"
    assert pace(10, 100_000, 1.0) == "10 of 100,000 images, 10.0 images/s, 2:46:39 left"


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr_console.cache_clear()
    log_to_stderr()
    with Progress(3) as quiet:
        quiet.advance()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Progress(3) as talking:
        talking.advance()
        talking.advance()
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("1 of 3 images, ")
    assert second.endswith(" left")
