"""Validation split given by a list of images, e.g. of whole videos, instead of by folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.data.lists import IdFinder, read_list
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zoo.data.files import Pair
    from zoo.data.source import Split


def hold_out(path: Path, train: Mapping[str, Pair], val: Mapping[str, Pair]) -> dict[Split, dict[str, Pair]]:
    """Return `train` and `val` such that `val` holds exactly the images of a list.

    Args:
        path: text file with one image of either split a line.
        train: files of the training images by id, `train/...`.
        val: files of the validation images by id, `val/...`; an image that changes its split changes its id.

    Raises:
        DatasetError: a missing file, a line that names no image with a mask, no image left for training, or
            two images of one name in one split.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path}: got no such file, expected the list of val_list: zoo data split makes one"
        )
    pool = {**train, **val}
    chosen = {line.id_ for line in read_list(path, IdFinder(tuple(pool), (), "image with a mask"))}
    result: dict[Split, dict[str, Pair]] = {"train": {}, "val": {}}
    for id_, pair in pool.items():
        split: Split = "val" if id_ in chosen else "train"
        name = f"{split}/{id_.partition('/')[2]}"
        if name in result[split]:
            raise DatasetError(
                f"{path}: got two images {name}, of train and of val, expected different names: rename one"
            )
        result[split][name] = pair
    if not result["train"]:
        raise DatasetError(f"{path}: got all {len(pool)} images, expected some left to train on: shorten it")
    return {split: dict(sorted(pairs.items())) for split, pairs in result.items()}
