"""Without `--overwrite`, no command replaces a file that it did not write, or that was edited since."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from zoo.data.shapes import NAMES, ShapesSource
from zoo.errors import ZooError
from zoo.predict import bulk
from zoo.predict.journal import NAME, Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]
    WriteOnnx = Callable[..., Path]

DRAWN = b"drawn by hand"


@pytest.fixture
def model(zoo: Zoo, write_onnx: WriteOnnx) -> Path:  # noqa: ARG001 - in its empty folder
    return write_onnx(Path("model.onnx"))


def write_images(folder: str, count: int, suffix: str = ".png") -> list[Path]:
    random = np.random.default_rng(0)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder, f"{index}{suffix}") for index in range(count)]
    for path in paths:
        Image.fromarray(random.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(path)
    return paths


def draw(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(DRAWN)


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def refused(result: Result) -> str:
    """Return what was said of files that would have been lost."""
    assert isinstance(result.exception, ZooError), result.output
    assert "would be overwritten, but" in str(result.exception)
    assert "--overwrite" in str(result.exception)
    return str(result.exception)


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_masks_drawn_by_hand_are_named_and_nothing_is_computed_or_written(
    zoo: Zoo, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images("in", 6)
    draw(*(f"masks/{index}.png" for index in range(5)))
    before = contents("masks")
    monkeypatch.setattr("zoo.predict.stream.stream", lambda *_: pytest.fail("it was computed"))
    message = refused(zoo("predict", model, "in", "--out", "masks"))
    assert message == (
        "5 files in masks would be overwritten, but were not written by this command or were edited since "
        "(0.png, 1.png, 2.png and 2 more): choose another --out, or replace existing files with --overwrite"
    )
    assert contents("masks") == before


@pytest.mark.parametrize("suffix", [".overlay.png", ".confidence.png"])
def test_all_kinds_of_outputs_are_checked(zoo: Zoo, shapes_bundle: Path, suffix: str) -> None:
    write_images("in", 1)
    draw(f"out/0{suffix}")
    options = ("--overlay", "--confidence")
    assert f"(0{suffix})" in refused(zoo("predict", shapes_bundle, "in", "--out", "out", *options))
    assert contents("out") == {str(Path("out", f"0{suffix}")): DRAWN}
    assert zoo("predict", shapes_bundle, "in", "--out", "out").exit_code == 0
    assert Path("out", f"0{suffix}").read_bytes() == DRAWN


def test_a_cluster_is_not_started_where_files_would_be_lost(zoo: Zoo, model: Path) -> None:
    write_images("in", 1)
    draw("out/0.png")
    refused(zoo("predict", model, "in", "--out", "out", "--ray"))


def test_the_option_replaces_them(zoo: Zoo, model: Path) -> None:
    write_images("in", 2)
    draw("out/0.png")
    assert told(zoo("predict", model, "in", "--out", "out", "--overwrite", "--json"))["predicted"] == 2
    assert Path("out/0.png").read_bytes() != DRAWN
    assert told(zoo("predict", model, "in", "--out", "out", "--json"))["kept"] == 2


def test_a_folder_of_the_name_of_a_mask_stays(zoo: Zoo, model: Path) -> None:
    write_images("in", 1)
    draw("out/0.png/kept")
    result = zoo("predict", model, "in", "--out", "out", "--overwrite")
    assert "(0.png): choose another --out, or move them away" in str(result.exception)
    assert Path("out/0.png/kept").read_bytes() == DRAWN


def test_files_of_other_images_are_no_matter(zoo: Zoo, model: Path) -> None:
    write_images("in", 2)
    draw("out/notes.png", "out/deep/0.png")
    for kept in (0, 2):
        assert told(zoo("predict", model, "in", "--out", "out", "--json"))["kept"] == kept
    assert Path("out/notes.png").read_bytes() == DRAWN


def test_a_label_beside_its_image_is_kept(zoo: Zoo, model: Path) -> None:
    write_images("flat", 2, ".jpg")
    draw("flat/0.png")
    assert "1 file in flat would" in refused(zoo("predict", model, "flat/*.jpg", "--out", "flat"))
    assert Path("flat/0.png").read_bytes() == DRAWN


@pytest.mark.parametrize("given", ["flat", "flat/*", "flat/*.jpg"])
def test_the_folder_of_the_images_may_be_that_of_the_masks_and_is_resumed(
    zoo: Zoo, model: Path, given: str
) -> None:
    write_images("flat", 2, ".jpg")
    first = told(zoo("predict", model, given, "--out", "flat", "--json"))
    assert first["predicted"] == 2
    write_images("flat", 3, ".jpg")
    os.utime("flat/0.jpg", ns=(0, 0))
    assert told(zoo("predict", model, given, "--out", "flat", "--json"))["predicted"] == 3
    assert told(zoo("predict", model, given, "--out", "flat", "--json"))["kept"] == 3
    assert sorted(path.name for path in Path("flat").glob("*.png")) == ["0.png", "1.png", "2.png"]


def test_a_mask_that_was_edited_is_kept_and_refused_where_it_would_be_replaced(
    zoo: Zoo, model: Path, shapes_bundle: Path
) -> None:
    paths = write_images("in", 2)
    zoo("predict", model, "in")
    mask = Path("predictions/0.png")
    edited, before = bytearray(mask.read_bytes()), mask.stat()
    edited[-1] ^= 1  # of the same size
    mask.write_bytes(edited)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told(zoo("predict", model, "in", "--json"))["kept"] == 2
    for command in (
        ("predict", shapes_bundle, "in"),  # another model
        ("predict", model, "in", "--overlay"),  # another output
    ):
        assert "1 file in predictions would" in refused(zoo(*command))
    os.utime(paths[0], ns=(0, 0))  # another image
    assert "(0.png)" in refused(zoo("predict", model, "in"))
    assert mask.read_bytes() == edited
    assert told(zoo("predict", model, "in", "--overwrite", "--json"))["predicted"] == 2
    assert mask.read_bytes() != edited


def test_outputs_in_a_copied_folder_are_still_ours(zoo: Zoo, model: Path, shapes_bundle: Path) -> None:
    write_images("in", 2)
    zoo("predict", model, "in", "--overlay")
    shutil.copytree("predictions", "copy", copy_function=shutil.copyfile)  # with other times
    assert told(zoo("predict", shapes_bundle, "in", "--out", "copy", "--overlay", "--json"))["predicted"] == 2


def test_an_overlay_of_an_earlier_command_is_still_ours(zoo: Zoo, model: Path) -> None:
    [path] = write_images("in", 1)
    for options in (["--overlay"], [], ["--overlay"]):
        os.utime(path, ns=(0, len(options)))
        assert told(zoo("predict", model, "in", "--json", *options))["predicted"] == 1


@pytest.mark.parametrize("target", ["masks/0.png", "nowhere.png"])
def test_a_link_is_not_replaced(zoo: Zoo, model: Path, target: str) -> None:
    write_images("in", 1)
    draw("masks/0.png")
    Path("out").mkdir()
    Path("out/0.png").symlink_to(Path(target).absolute())
    assert "(0.png)" in refused(zoo("predict", model, "in", "--out", "out"))
    assert Path("out/0.png").is_symlink()
    assert told(zoo("predict", model, "in", "--out", "out", "--overwrite", "--json"))["predicted"] == 1
    assert Path("masks/0.png").read_bytes() == DRAWN


def test_an_output_that_is_not_listed_any_more_is_refused(zoo: Zoo, model: Path) -> None:
    write_images("in", 3)
    zoo("predict", model, "in")
    journal = Path("predictions") / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    [index] = [index for index, line in enumerate(lines) if b'"mask": "1.png"' in line]
    lines[index] = b"\0" * 20 + b"\n"
    journal.write_bytes(b"".join(lines))
    assert "1 file in predictions would" in refused(zoo("predict", model, "in"))
    Path("predictions/1.png").unlink()
    assert told(zoo("predict", model, "in", "--json"))["kept"] == 2


def test_the_start_of_a_damaged_line_tells_whose_the_output_is(zoo: Zoo, model: Path) -> None:
    write_images("in", 2)
    zoo("predict", model, "in")
    journal = Path("predictions") / NAME
    journal.write_bytes(journal.read_bytes()[:-40])
    assert told(zoo("predict", model, "in", "--json"))["kept"] == 1


def test_a_stopped_overwrite_leaves_the_other_outputs_ours(
    zoo: Zoo, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images("in", 3)
    zoo("predict", model, "in")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bulk.Bulk, "_finish", stop)
        assert zoo("predict", model, "in", "--overwrite").exit_code == 130
    found = told(zoo("predict", model, "in", "--json"))
    assert found["kept"] + found["predicted"] == 3


def test_a_file_that_appears_meanwhile_fails_its_image_alone(
    zoo: Zoo, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images("in", 2)
    write_result = bulk.write_result

    def late(result: Any, out: Path, *others: Any) -> Any:
        written = write_result(result, out, *others)
        draw("predictions/1.png")
        return written

    monkeypatch.setattr(bulk, "write_result", late)
    result = zoo("predict", model, "in", "--json")
    assert result.exit_code == 1
    [error] = json.loads(result.stdout)["errors"]
    assert error["input"] == str(Path("in/1.png"))
    assert "1 file in predictions would be overwritten" in error["error"]
    assert Path("predictions/1.png").read_bytes() == DRAWN
    assert [path.name for path in Path("predictions").rglob("*.tmp")] == []


def test_a_journal_that_another_process_began_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with Journal(tmp_path, {"sha256": "a"}) as first:
        with Journal(tmp_path, {"sha256": "b"}) as second:
            second.start()
            second.add({"mask": "0.png"})
        with pytest.raises(ZooError, match=r"another zoo predict wrote to .* meanwhile: run the same"):
            first.start()
    assert b'"mask": "0.png"' in (tmp_path / NAME).read_bytes()


def test_predictions_of_other_images_of_the_same_name_are_told(zoo: Zoo, model: Path) -> None:
    write_images("a", 2)
    write_images("b", 1)
    zoo("predict", model, "a")
    result = zoo("predict", model, "b")
    assert (
        "predictions has 1 predictions of other images with the same names: replacing them" in result.stderr
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("metrics.json", "evaluate MODEL --data shapes --report there"),
        ("confusion.half.png", "evaluate MODEL --data shapes --protocol whole,half --report there"),
        ("report.html", "data check DATA --no-write --report there"),
        ("1-2.txt", "data split DATA 1/2 4 --out there"),
        ("val.txt", "data split DATA --val 2 --out there"),
        ("benchmark.md", "bench MODEL --quick --report there"),
        ("load.json", "load-test http://127.0.0.1:9 --quick --report there"),
        ("there.tar", "pull file:gone/model --bundle there/there.tar"),
        ("log.csv", "train supervised --data DATA --no-pretrained --device cpu --out there"),
        ("bundle/config.json", "train supervised --data DATA --no-pretrained --device cpu --out there"),
        ("profile.json", "train supervised --data DATA --no-pretrained --device cpu --profile --out there"),
    ],
)
def test_other_commands_refuse_before_they_work(
    zoo: Zoo, shapes_bundle: Path, tiny_folder: Path, name: str, command: str
) -> None:
    draw(f"there/{name}")
    words = command.replace("MODEL", str(shapes_bundle)).replace("DATA", str(tiny_folder)).split()
    result = zoo(*words)
    assert isinstance(result.exception, ZooError), result.output
    assert "1 file in there would be overwritten, but was not written" in str(result.exception)
    assert contents("there") == {str(Path("there", name)): DRAWN}


def test_other_commands_write_again_what_they_wrote_but_not_what_was_edited(
    zoo: Zoo, tiny_folder: Path
) -> None:
    for command, name in (
        (("data", "check", tiny_folder, "--no-write", "--report", "there"), "report.html"),
        (("data", "split", tiny_folder, "1/2", "--out", "there"), "1-2.txt"),
    ):
        for _ in range(2):
            assert zoo(*command).exit_code == 0
        path = Path("there", name)
        path.write_bytes(path.read_bytes() + b"\n")
        edited = path.read_bytes()
        assert f"({name})" in refused(zoo(*command))
        assert path.read_bytes() == edited
        assert zoo(*command, "--overwrite").exit_code == 0
        assert path.read_bytes() != edited


def test_an_evaluation_is_written_again_but_not_over_the_figures_of_a_run(
    zoo: Zoo, shapes_bundle: Path
) -> None:
    draw("run/metrics.json")
    source = ("evaluate", shapes_bundle, "--data", few_shapes())
    for _ in range(2):
        assert zoo(*source, "--report", "there").exit_code == 0
    assert "(metrics.json)" in refused(zoo(*source, "--report", "run"))
    assert zoo(*source, "--report", "run", "--overwrite").exit_code == 0
    assert json.loads(Path("run/metrics.json").read_bytes())[0]["protocol"] == "whole"


def few_shapes() -> Path:
    """Return a folder of one validation image of `shapes`."""
    source, folder = ShapesSource(), Path("few")
    id_ = source.ids("val")[0]
    for name, pixels in (("images", source.read_image(id_)), ("masks", source.read_mask(id_))):
        (folder / "val" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / f"val/{name}/0.png")
    (folder / "data.toml").write_text(f"names = {json.dumps(NAMES)}\n")
    return folder
