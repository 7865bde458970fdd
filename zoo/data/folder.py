"""A plain folder of images and masks, described, where its names differ, by a `data.toml`.

- `train/images`, `train/masks`: a mask for each image, of the same name without suffix;
- `val/images`, `val/masks`: likewise;
- `unlabeled/`, optional: images alone, directly or in `unlabeled/images`;
- `data.toml`, optional: `names = ["background", "crack"]` and the other keys of `DataFile`.
"""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.classes import IGNORE, Classes
from zoo.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, FileSource, Pair, check_labels, read_mask_file
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from zoo.data.source import Split

DATA_FILE = "data.toml"

Channel = Annotated[int, Field(ge=0, le=255)]


class DataFile(BaseModel):
    """The contents of a `data.toml`.

    Args:
        root: folder that the other folders are relative to; relative itself to the file's folder.
        train: folder with `images` and `masks`.
        val: likewise.
        unlabeled: folder of images.
        names: one for each label; left out, the labels are counted in the masks.
        palette: one RGB colour for each label; left out, the colours of PASCAL VOC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: str = "."
    train: str = "train"
    val: str = "val"
    unlabeled: str = "unlabeled"
    names: list[str] | None = Field(None, min_length=2, max_length=IGNORE)
    palette: list[Annotated[list[Channel], Field(min_length=3, max_length=3)]] | None = None


class FolderSource(FileSource):
    """Images and masks of a plain folder.

    Args:
        spec: the folder, or a `data.toml`.

    Raises:
        DatasetError: no such folder, a bad `data.toml`, an image without a mask, two files of one id.
    """

    def __init__(self, spec: str) -> None:
        path = Path(spec)
        folder, toml = (path, path / DATA_FILE) if path.is_dir() else (path.parent, path)
        data = _read_data_file(toml) if not path.is_dir() or toml.is_file() else DataFile()
        root = folder / data.root
        _check_named_folders(data, root, toml)
        files: dict[Split, dict[str, Pair]] = {
            "train": _pairs("train", root / data.train),
            "unlabeled": _images("unlabeled", _inner(root / data.unlabeled)),
            "val": _pairs("val", root / data.val),
        }
        if not files["train"] and not files["val"]:
            raise DatasetError(
                f"{root}: got no images in {data.train}/images or {data.val}/images, expected a folder with "
                f"train/images, train/masks, val/images and val/masks: move the files there, or name "
                f"their folders in {DATA_FILE}"
            )
        masks = [pair.mask for pair in (*files["train"].values(), *files["val"].values()) if pair.mask]
        super().__init__(spec, _classes(data, toml, masks), files)


def _read_data_file(path: Path) -> DataFile:
    try:
        return DataFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatasetError(
            f"{path}: got a file that is not TOML ({error}), expected a folder or a {DATA_FILE}: correct it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            keys = ", ".join(DataFile.model_fields)
            raise DatasetError(
                f"{path}: got the unknown key {key}, expected {keys}: correct or remove it"
            ) from error
        raise DatasetError(
            f"{path}: got {key} = {first['input']!r}, expected: {first['msg']}: correct it"
        ) from error


def _check_named_folders(data: DataFile, root: Path, toml: Path) -> None:
    """Raise if a folder that `data.toml` names does not exist; those left out may be missing."""
    for key in ("root", "train", "val", "unlabeled"):
        folder = root if key == "root" else root / getattr(data, key)
        if key in data.model_fields_set and not folder.is_dir():
            raise DatasetError(
                f"{toml}: got {key} = {getattr(data, key)!r}, expected an existing folder, "
                f"there is no {folder}: correct the key"
            )


def _inner(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _listed(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return the files below a folder by their relative path without suffix, in order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(
                f"{path}: got a second file named {stem} beside {found[stem].name}, expected one: "
                f"rename or remove one of them"
            )
        found[stem] = path
    return dict(sorted(found.items()))


def _images(split: Split, folder: Path) -> dict[str, Pair]:
    return {f"{split}/{stem}": Pair(path, None) for stem, path in _listed(folder, IMAGE_SUFFIXES).items()}


def _pairs(split: Split, folder: Path) -> dict[str, Pair]:
    masks = _listed(folder / "masks", MASK_SUFFIXES)
    pairs: dict[str, Pair] = {}
    for stem, image in _listed(folder / "images", IMAGE_SUFFIXES).items():
        if stem not in masks:
            raise _no_mask(image, stem, folder / "masks", split)
        pairs[f"{split}/{stem}"] = Pair(image, masks[stem])
    return pairs


def _no_mask(image: Path, stem: str, folder: Path, split: Split) -> DatasetError:
    for suffix in (".jpg", ".jpeg", ".webp"):
        lossy = folder / f"{stem}{suffix}"
        if lossy.is_file():
            return DatasetError(
                f"{lossy}: got a mask in a format that changes its values, expected "
                f"{', '.join(MASK_SUFFIXES)}: "
                f"save it as an 8-bit index PNG from the original labels"
            )
    instead = "move the image to unlabeled/" if split == "train" else "remove the image"
    return DatasetError(
        f"{image}: got no mask {stem}.png in {folder}, expected one for each image: draw it, or {instead}"
    )


def _classes(data: DataFile, toml: Path, masks: list[Path]) -> Classes:
    names = tuple(data.names or (f"class_{label}" for label in range(_count_labels(masks))))
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{toml}: got the name {again} twice in names, expected each once: rename one")
    if data.palette is None:
        return Classes.of(names)
    if len(data.palette) != len(names):
        raise DatasetError(
            f"{toml}: got {len(data.palette)} colours in palette, expected {len(names)}, one for each class: "
            f"add or remove colours"
        )
    return Classes(names, tuple((red, green, blue) for red, green, blue in data.palette))


def _count_labels(masks: list[Path]) -> int:
    """Return the number of classes that the masks show: their highest label and one."""
    with ThreadPoolExecutor() as pool:
        seen = np.logical_or.reduce(list(pool.map(_labels, masks)))
    check_labels(seen, str(masks[0].parent))
    return int(np.flatnonzero(seen[:IGNORE]).max()) + 1


def _labels(mask: Path) -> NDArray[np.bool_]:
    """Return which of the 256 values a mask holds."""
    return np.bincount(read_mask_file(mask).ravel(), minlength=256) > 0
