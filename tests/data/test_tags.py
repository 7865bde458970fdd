from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from zoo.classes import IGNORE, Classes
from zoo.data.datasets import TaggedImages
from zoo.data.partition import Partition, make_partition
from zoo.data.source import Source, Split
from zoo.data.tags import tags_of_mask, with_tags
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Read = Callable[[str], Partition]


class Animals(Source):
    """Six training images, of which two are labeled, and two without masks; one name stands in both."""

    def __init__(self, *names: str) -> None:
        super().__init__("animals", Classes.of(names or ("background", "cat", "big dog")))

    def ids(self, split: Split) -> tuple[str, ...]:
        numbers = {"train": range(6), "unlabeled": range(5, 7), "val": range(9, 10)}[split]
        return tuple(f"{split}/{number}" for number in numbers)

    def read_image(self, id_: str) -> NDArray[np.uint8]:  # noqa: ARG002
        return np.zeros((4, 6, 3), np.uint8)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        assert id_ in ("train/0", "train/1"), "the mask of an unlabeled image was read"
        mask = np.zeros((4, 6), np.uint8)
        mask[0, 0] = 2
        mask[1:] = IGNORE
        return mask


PARTITION = Partition(
    "2", 0, ("train/0", "train/1"), (*(f"train/{n}" for n in range(2, 6)), "unlabeled/5", "unlabeled/6")
)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function from the text of a file to the partition with its tags."""

    def read(text: str) -> Partition:
        (tmp_path / "tags.txt").write_text(text)
        return with_tags(PARTITION, tmp_path / "tags.txt", Animals())

    return read


def test_a_mask_shows_the_classes_of_its_pixels_and_void_is_none() -> None:
    mask = np.array([[0, 2], [IGNORE, 2]], np.uint8)
    assert tags_of_mask(mask, 4).tolist() == [True, False, True, False]
    assert not tags_of_mask(np.full((2, 2), IGNORE, np.uint8), 4).any()


def test_a_line_names_an_image_and_its_classes_by_name_or_number(read: Read) -> None:
    partition = read("# weak labels\ntrain/2 background cat\n\n3.jpg 0 2 2\nunlabeled/6\t1 background\n")
    assert partition.tags == {"train/2": (0, 1), "train/3": (0, 2), "unlabeled/6": (0, 1)}
    assert (partition.labeled, partition.unlabeled) == (PARTITION.labeled, PARTITION.unlabeled)
    assert partition.digest == PARTITION.digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train/2 0 horse",
            r"tags\.txt:2: got the class 'horse', expected some of background, cat, big dog or 0\.\.2",
        ),
        ("train/2 0 3", r"tags\.txt:2: got the class '3'"),
        ("train/2 0 big dog", r"tags\.txt:2: got the class 'big'"),
        ("train/2", r"tags\.txt:2: got no class of train/2, expected some of"),
        ("train/0 0", r"tags\.txt:2: got 'train/0 0', expected an unlabeled image such as train/2"),
        ("val/9 0", r"tags\.txt:2: got 'val/9 0', expected an unlabeled image"),
        ("train/77 0", r"tags\.txt:2: got 'train/77 0', expected an unlabeled image"),
        ("train/4 1", r"tags\.txt:2: got train/4 again, .* it is on line 1"),
        ("5 0", r"tags\.txt:2: got '5 0', the name of 2 images \(train/5, unlabeled/5\)"),
    ],
)
def test_a_bad_line_is_an_error_of_one_line_that_names_it(line: str, message: str, read: Read) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(f"train/4 0 1\n{line}\n")
    assert "\n" not in str(caught.value)


def test_a_list_without_background_is_refused_where_masks_have_it(read: Read) -> None:
    with pytest.raises(
        DatasetError, match="got 2 images without background, expected it named like any other"
    ):
        read("train/2 cat\ntrain/3 1\n")


def test_data_without_background_need_none(tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("train/2 cat")
    tags = with_tags(PARTITION, tmp_path / "tags.txt", Animals("road", "cat")).tags
    assert tags == {"train/2": (1,)}


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_list_is_refused(text: str, read: Read) -> None:
    with pytest.raises(DatasetError, match="got a list without entries"):
        read(text)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data\.tags .*nowhere\.txt: got no such file"):
        with_tags(PARTITION, tmp_path / "nowhere.txt", Animals())


def test_tags_need_images_without_masks(tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("train/2 cat")
    full = Partition("full", 0, PARTITION.labeled, ())
    with pytest.raises(DatasetError, match="all 2 images have masks, expected unlabeled ones"):
        with_tags(full, tmp_path / "tags.txt", Animals())


def test_a_written_partition_keeps_its_tags(read: Read, tmp_path: Path) -> None:
    partition = read("train/2 0 1\nunlabeled/6 0 2\n")
    partition.write(tmp_path / "run")
    assert Partition.read(tmp_path / "run") == partition


def test_edited_tags_are_refused(read: Read, tmp_path: Path) -> None:
    read("train/2 0 1\n").write(tmp_path / "run")
    path = tmp_path / "run" / "tags.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(DatasetError, match="they were edited"):
        Partition.read(tmp_path / "run")


def test_the_digest_of_tags_depends_on_the_tags_and_not_on_their_order(read: Read) -> None:
    first, second = read("train/2 0 1\ntrain/3 0 2"), read("3 2 0\ntrain/2 1 0")
    assert first.tags_digest == second.tags_digest
    assert first.tags_digest != read("train/2 0 1").tags_digest


def test_a_partition_without_tags_is_written_as_before(tmp_path: Path) -> None:
    make_partition(Animals(), "2", 0).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"labeled.txt", "unlabeled.txt", "partition.json"}


def test_tagged_images_are_those_with_masks_then_those_with_tags(read: Read) -> None:
    images = TaggedImages(Animals(), read("unlabeled/6 0 1"))
    assert images.ids == ("train/0", "train/1", "unlabeled/6")
    _, mask, tags = images[0]
    assert tags.tolist() == [True, False, True]
    assert mask[0, 0] == 2
    image, mask, tags = images[2]
    assert tags.tolist() == [True, True, False]
    assert tags.dtype == torch.bool
    assert mask.shape == image.shape[1:]
    assert bool((mask == IGNORE).all())
