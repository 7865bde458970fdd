from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from zoo.data.files import Pair
from zoo.data.lists import hold_out
from zoo.data.open import open_source
from zoo.data.partition import make_partition
from zoo.data.shapes import ShapesSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Zoo = Callable[..., Result]


@pytest.mark.slow
def test_a_list_is_taken_by_partition_as_it_is(zoo: Zoo, tmp_path: Path) -> None:
    out = tmp_path / "splits"
    result = zoo("data", "split", "shapes", "1/32", "10", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    for each, count in zip(told["lists"], (15, 10), strict=True):
        partition = make_partition(ShapesSource(), each["file"], 0)
        assert (len(partition.labeled), partition.digest) == (count, each["digest"])
        assert min(each["classes"].values()) > 0
    assert sorted(path.name for path in out.glob("[!.]*")) == ["1-32.txt", "10.txt"]
    table = zoo("data", "split", "shapes", "1/32", "--out", out).stdout
    assert "15 (3%)" in table
    assert f"--partition {out / '1-32.txt'}" in table


@pytest.mark.parametrize("size", ["1:8", "half", "-3"])
def test_a_size_that_is_none_is_a_usage_error(zoo: Zoo, size: str) -> None:
    assert zoo("data", "split", "shapes", "--", size).exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["1/8", "--val", "1/5"], ["--val", "some"]])
def test_sizes_or_val_is_asked_for(zoo: Zoo, arguments: list[str]) -> None:
    assert zoo("data", "split", "shapes", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1/0"], "SIZE 1/0: got a fraction outside (0, 1], expected one such as 1/8: correct it"),
        (["999"], "SIZE 999: got 999 images, expected 1..480, as split train has: ask for so many"),
        (["--val", "0"], "--val 0: got 0 images, expected 1..576, as train and val have: ask for so many"),
        (
            ["1/8", "--out", "file"],
            "file cannot be written (Not a directory), expected a folder: choose another",
        ),
    ],
)
def test_what_cannot_be_is_told_in_the_words_of_the_command_before_masks_are_read(
    arguments: list[str], message: str, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShapesSource, "read_mask", lambda *_: pytest.fail("masks were read"))
    Path("file").touch()
    result = zoo("data", "split", "shapes", *arguments)
    assert str(result.exception) == message


def test_a_new_val_keeps_videos_whole_and_is_read_by_data_toml(zoo: Zoo, tmp_path: Path) -> None:
    for split, videos in (("train", "ab"), ("val", "bc")):
        for name in ("images", "masks"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
        for video in videos:
            for frame in range(4):
                stem = f"{video}_{frame + 4 * (split == 'val'):03d}.png"
                Image.new("RGB", (8, 8)).save(tmp_path / "d" / split / "images" / stem)
                Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "d" / split / "masks" / stem)
    arguments = ["--val", "1/4", "--groups", "video", "--out", tmp_path / "d" / "lists"]
    result = zoo("data", "split", tmp_path / "d", *arguments)
    assert result.exit_code == 0, result.output
    assert f"use it: zoo train eln --data {tmp_path / 'd' / 'lists' / 'data.toml'}" in result.stdout
    source = open_source(str(tmp_path / "d" / "lists"))
    videos = {split: {id_.split("/")[1][0] for id_ in source.ids(split)} for split in ("train", "val")}
    assert videos["train"] | videos["val"] == set("abc")
    assert videos["train"].isdisjoint(videos["val"])
    assert len(source.ids("train")) + len(source.ids("val")) == 16
    assert source.read_image(source.ids("val")[0]).shape == (8, 8, 3)


def test_the_data_toml_of_a_new_val_says_what_that_of_the_data_says(zoo: Zoo, tmp_path: Path) -> None:
    own = """# of mine
root = "d"
names = [
    "ground",
    "root",
]
val_list = "old.txt"  # an older one

[colors]
ground = [0, 0, 0]
root = [255, 0, 0]
"""
    (tmp_path / "data.toml").write_text(own)
    (tmp_path / "old.txt").write_text("train/0\n")
    for name, mode in (("images", "RGB"), ("masks", "RGB")):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        for number in range(4):
            Image.new(mode, (8, 8), (255 * (number % 2), 0, 0)).save(
                tmp_path / "d" / "train" / name / f"{number}.png"
            )
    result = zoo("data", "split", tmp_path / "data.toml", "--val", "1/2", "--out", tmp_path / "s p" / "new")
    assert result.exit_code == 0, result.output
    written = (tmp_path / "s p" / "new" / "data.toml").read_text()
    assert written == own.replace('root = "d"', "").replace(
        'val_list = "old.txt"  # an older one\n', ""
    ).replace("# of mine\n\n", 'root = "../../d"\nval_list = "val.txt"\n# of mine\n')
    source = open_source(str(tmp_path / "s p" / "new"))
    assert source.classes.names == ("ground", "root")
    assert (len(source.ids("train")), len(source.ids("val"))) == (2, 2)
    assert (tmp_path / "data.toml").read_text() == own


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "got no such file, expected the list of val_list"),
        ("train/x\n", "expected an image with a mask such as train/a"),
        ("train/a\nval/b\n", r"got all 2 images, expected some left to train on"),
    ],
)
def test_a_val_list_that_cannot_be_is_an_error(tmp_path: Path, lines: str | None, message: str) -> None:
    pairs = [{f"{split}/{name}": Pair(tmp_path, None)} for split, name in (("train", "a"), ("val", "b"))]
    path = tmp_path / "val.txt"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises(DatasetError, match=message):
        hold_out(path, *pairs)
