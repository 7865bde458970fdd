"""Published data sets in their official layouts, with a handful of tiny images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from zoo.classes import default_palette
from zoo.data.check import check_source
from zoo.data.folder import FolderSource
from zoo.data.inspect.inspection import inspect
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    MakeMasks = Callable[..., str]

HEIGHT, WIDTH = 6, 8


class Disk(NamedTuple):
    """A folder to lay out files in."""

    root: Path

    def path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, name: str) -> None:
        path = self.path(name)
        seed = [ord(letter) for letter in path.name]  # no two images are equal
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)

    def mask(self, name: str, values: Sequence[int], *, palette: bool = False) -> None:
        mask = Image.fromarray(np.resize(np.array(values, np.uint8), (HEIGHT, WIDTH)))
        if palette:
            mask.putpalette([channel for color in default_palette(256) for channel in color])
        mask.save(self.path(name))

    def names(self, name: str, names: Iterable[str]) -> None:
        self.path(name).write_text("".join(f"{line}\n" for line in names))


@pytest.fixture
def make_masks(tmp_path: Path) -> MakeMasks:
    """Return a function that writes masks of 64x48 pixels with images, the last of them as val."""

    def make(masks: Sequence[Image.Image], toml: str = "", suffix: str = "png", *, val: int = 1) -> str:
        random, folder = np.random.default_rng(0), tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        for number, mask in enumerate(masks):
            split = folder / ("train" if number < len(masks) - val else "val")
            for name in ("images", "masks"):
                (split / name).mkdir(parents=True, exist_ok=True)
            cells = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
            cells.resize((64, 48)).save(split / "images" / f"{number}.png")
            mask.save(split / "masks" / f"{number}.{suffix}")
        if toml:
            (folder / "data.toml").write_text(toml)
        return str(folder)

    return make


@pytest.fixture
def fault_of() -> Callable[[str], str]:
    """Return a function that gives the error that stops training on a folder, empty if nothing does.

    What `zoo data check` says agrees with it.
    """

    def fault(spec: str) -> str:
        try:
            check_source(FolderSource(spec))
        except DatasetError as error:
            assert inspect(spec).has_faults
            return str(error)
        assert not inspect(spec).has_faults
        return ""

    return fault


OWN, VAL, ADDED = ("2007_000032", "2007_000039"), ("2007_000033",), ("2008_000008", "2008_000015")


@pytest.fixture
def voc(tmp_path: Path) -> Disk:
    """Return VOC with two training masks of its own, of 0, 15, 255, and two of SBD's, of 0 and 20."""
    disk = Disk(tmp_path / "VOC2012")
    for name in (*OWN, *VAL, *ADDED):
        disk.image(f"JPEGImages/{name}.jpg")
    for name in (*OWN, *VAL):
        disk.mask(f"SegmentationClass/{name}.png", [0, 15, 255], palette=True)
        disk.mask(f"SegmentationClassAug/{name}.png", [0, 1])  # SBD's, which are worse and not to be read
    for name in ADDED:
        disk.mask(f"SegmentationClassAug/{name}.png", [0, 20])
    disk.names("ImageSets/Segmentation/train.txt", OWN)
    disk.names("ImageSets/Segmentation/val.txt", VAL)
    disk.names("ImageSets/Segmentation/trainaug.txt", (*ADDED, *OWN))
    return disk


STREETS = {
    "train": ("aachen/aachen_000000_000019", "bochum/bochum_000000_000313", "ulm/ulm_000001_000019"),
    "val": ("munster/munster_000000_000019",),
    "train_extra": ("bayreuth/bayreuth_000000_000001",),
}


@pytest.fixture
def cityscapes(tmp_path: Path) -> Disk:
    """Return Cityscapes whose masks hold the official ids 7 (road), 6, 26 (car), 0, 33 (bicycle)."""
    disk = Disk(tmp_path / "cityscapes")
    for split, names in STREETS.items():
        for name in names:
            disk.image(f"leftImg8bit/{split}/{name}_leftImg8bit.png")
            if split != "train_extra":
                disk.mask(f"gtFine/{split}/{name}_gtFine_labelIds.png", [7, 6, 26, 0, 33])
                disk.mask(f"gtFine/{split}/{name}_gtFine_instanceIds.png", [7])
    return disk


@pytest.fixture
def ade20k(tmp_path: Path) -> Disk:
    """Return a small ADE20K whose masks hold 0 (no class), 1 (wall) and 150 (flag)."""
    disk = Disk(tmp_path / "ADEChallengeData2016")
    for split, names in {
        "training": ("ADE_train_00000001", "ADE_train_00000002"),
        "validation": ("ADE_val_00000001",),
    }.items():
        for name in names:
            disk.image(f"images/{split}/{name}.jpg")
            disk.mask(f"annotations/{split}/{name}.png", [0, 1, 150])
    return disk


@pytest.fixture
def coco(tmp_path: Path) -> Disk:
    """Return a small COCO 2017 whose masks hold 0 (background), 1 (person), 80 (toothbrush) and 255."""
    disk = Disk(tmp_path / "coco")
    for split, names in {"train2017": ("000000000009", "000000000025"), "val2017": ("000000000139",)}.items():
        for name in names:
            disk.image(f"{split}/{name}.jpg")
            disk.mask(f"masks/{name}.png", [0, 1, 80, 255], palette=True)
    return disk


CONTEXT = {"train": ("2008_000002", "2008_000003"), "val": ("2008_000015",)}


@pytest.fixture
def pascal_context(tmp_path: Path) -> Disk:
    """Return PASCAL-Context whose masks hold 0 (background), 1 (aeroplane), 59 (wood)."""
    disk = Disk(tmp_path / "VOC2010")
    for split, names in CONTEXT.items():
        disk.names(f"ImageSets/SegmentationContext/{split}.txt", names)
        for name in names:
            disk.image(f"JPEGImages/{name}.jpg")
            disk.mask(f"SegmentationClassContext/{name}.png", [0, 1, 59])
    return disk
