"""`data.toml`: names, folders and labels of a plain folder of images and masks.

    names = ["background", "crack"]     # in label order

    [labels]                            # for masks with other values: value in the files = class
    0 = "background"
    255 = "crack"

For color masks, `[colors]` gives one color or a list of colors for each class:

    [colors]
    background = [0, 0, 0]
    crack = [[255, 255, 255], [255, 0, 0]]

`ignore = [7]` or `ignore = [[224, 224, 192]]` lists values or colors that are ignored. Unlisted values and
colors are errors unless `unknown = "ignore"`. 255 in an index mask is ignored unless `[labels]` gives it a
class; `ignore = [255]` confirms this where masks are ambiguous.

Images other than 8-bit RGB are declared by `channels` and `dtype` (`zoo.image_format`):

    channels = 4
    dtype = "uint16"
    percentiles = [1, 99]               # or range = [0, 4095], or one pair for each channel
    rgb = [2, 1, 0]                     # channels displayed as red, green and blue
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.classes import IGNORE, Classes, Color
from zoo.data.labels import VALUES, LabelMap, pack, unpack
from zoo.errors import DatasetError
from zoo.image_format import MOST_CHANNELS, Dtype, ImageFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DATA_FILE = "data.toml"

Order = Literal["area", "file"]
"""What decides which of overlapping objects is on top: their size, or their order."""
Channel = Annotated[int, Field(ge=0, le=255)]
Triple = Annotated[list[Channel], Field(min_length=3, max_length=3)]


Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Percentile = Annotated[float, Field(ge=0, le=100)]
WHOLE = (0.0, 100.0)
"""Percentiles of the lowest and the highest value."""
TABLE = re.compile(r"\[{1,2}[\w.\"'\s-]+\]{1,2}\s*(#.*)?$")
OWN_KEYS = re.compile(r"(root|val_list)\s*=")


class CocoOptions(BaseModel):
    """Table `[coco]` of a `data.toml`.

    Args:
        unusable: whether annotations without a usable segmentation are errors or skipped.
        order: whether the smaller one of overlapping objects is on top, or the later one in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    unusable: Literal["error", "skip"] = "error"
    order: Order = "area"


class DataFile(BaseModel):
    """The contents of a `data.toml`.

    Args:
        root: folder that the other folders are relative to; itself relative to the folder of the file.
        train: folder of the training `images` and `masks`.
        val: folder of the validation `images` and `masks`.
        unlabeled: folder of unlabeled images.
        val_list: text file, relative to `data.toml`, with the images of `train` and `val` that form `val`.
        names: name of each label; by default those of `labels` or `colors` in their order, or else numbers
            for the labels found in the masks.
        palette: RGB color of each label; by default that of `colors`, or else that of PASCAL VOC. Masks whose
            own palettes differ are read by it.
        labels: class of each value in the mask files.
        colors: color or colors of each class in the mask files.
        ignore: values, or colors if `colors` is given, that become `IGNORE`.
        coco: how COCO annotations are read (`zoo.data.formats.coco`).
        unknown: whether unlisted values or colors are errors or become `IGNORE`.
        channels: number of channels of the images.
        dtype: element type of the images.
        range: lowest and highest value, or those of each channel; by default those of uint8, or else the
            `percentiles` of the training pool.
        percentiles: percentiles of the training pool that `range` is measured as; by default its lowest and
            highest value.
        rgb: channels displayed as red, green and blue; by default the first three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    root: str = "."
    train: str = "train"
    val: str = "val"
    unlabeled: str = "unlabeled"
    val_list: str | None = None
    names: list[str] | None = Field(None, min_length=2, max_length=IGNORE)
    palette: list[Triple] | None = None
    labels: dict[str, str] | None = Field(None, min_length=2)
    colors: dict[str, Triple | list[Triple]] | None = Field(None, min_length=2)
    ignore: list[Channel | Triple] = []
    coco: CocoOptions = CocoOptions()
    unknown: Literal["error", "ignore"] = "error"
    channels: int = Field(3, ge=1, le=MOST_CHANNELS)
    dtype: Dtype = "uint8"
    range: Range | list[Range] | None = None
    percentiles: Annotated[list[Percentile], Field(min_length=2, max_length=2)] | None = None
    rgb: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None


def read_data_file(path: Path) -> DataFile:
    """Return the contents of a `data.toml`.

    Raises:
        DatasetError: the file is not TOML, a key is unknown, or a value has the wrong type.
    """
    try:
        return DataFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatasetError(
            f"{path}: got a file that is not TOML ({error}), expected a folder or a {DATA_FILE}: correct it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic names the branch of a union in brackets
        key = ".".join(str(part) for part in first["loc"] if not set("[-") & set(str(part)))
        if first["type"] == "extra_forbidden":
            raise _unknown_key(path, key) from error
        raise DatasetError(
            f"{path}: got {key} = {first['input']!r}, expected: {first['msg']}: correct it"
        ) from error


def _unknown_key(path: Path, key: str) -> DatasetError:
    """Return the error for a key that `data.toml` or its table `[coco]` does not have."""
    table, _, name = key.rpartition(".")
    keys = (CocoOptions if table else DataFile).model_fields
    near = get_close_matches(name, keys, n=1)
    where = f" in [{table}]" if table else ""
    remedy = f"did you mean {near[0]}?" if near else "correct or remove it"
    return DatasetError(f"{path}: got the unknown key {name}{where}, expected {', '.join(keys)}: {remedy}")


def with_new_val(toml: Path, folder: Path, val_list: str) -> str:
    """Return the text of a `data.toml` in another folder for the same data with another `val`.

    Args:
        toml: file that describes the data, which may not exist.
        folder: folder of the new file.
        val_list: list of the new `val`, relative to that folder.

    Raises:
        DatasetError: `toml` cannot be read.
    """
    data, lines = DataFile(), []
    if toml.is_file():
        data, lines = read_data_file(toml), toml.read_text(encoding="utf-8-sig").splitlines()
    keys = {
        "root": Path(os.path.relpath(toml.parent / data.root, folder)).as_posix(),
        "val_list": val_list,
    }
    first_table = next((i for i, line in enumerate(lines) if TABLE.match(line)), len(lines))
    kept = [line for line in lines[:first_table] if not OWN_KEYS.match(line)]
    # a JSON string is a TOML string
    new = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join([*new, *kept, *lines[first_table:]]) + "\n"


def image_format(data: DataFile, toml: Path) -> ImageFormat:
    """Return the format of the images that a `data.toml` declares; its ranges may have to be measured.

    Raises:
        DatasetError: settings that do not belong together.
    """
    declared = {"channels", "dtype"} & data.model_fields_set
    if (data.channels, data.dtype) == (3, "uint8"):
        for key in ("range", "percentiles", "rgb"):
            if getattr(data, key) is not None:
                raise DatasetError(
                    f"{toml}: got {key} for 8-bit RGB, expected it for other images: remove it, or declare "
                    f"channels and dtype{' otherwise' * bool(declared)}"
                )
        return ImageFormat()
    if data.range is not None and data.percentiles is not None:
        raise DatasetError(f"{toml}: got both range and percentiles, expected one of them: remove the other")
    low, high = data.percentiles or WHOLE
    ranges = _ranges(data, toml)
    if not low < high:
        raise DatasetError(
            f"{toml}: got percentiles = {[low, high]}, expected the lower one first: swap them"
        )
    if data.rgb is not None and not all(0 <= channel < data.channels for channel in data.rgb):
        raise DatasetError(
            f"{toml}: got rgb = {data.rgb}, expected channels 0..{data.channels - 1}: correct it"
        )
    is_measured = ranges is None and (data.dtype != "uint8" or data.percentiles is not None)
    return ImageFormat(
        channels=data.channels,
        dtype=data.dtype,
        ranges=ranges,
        percentiles=(low, high) if is_measured else None,
        shown=None if data.rgb is None else (data.rgb[0], data.rgb[1], data.rgb[2]),
    )


def _ranges(data: DataFile, toml: Path) -> tuple[tuple[float, float], ...] | None:
    """Return the range of each channel; None if they are not given."""
    if data.range is None:
        return None
    given: list[Any] = data.range
    pairs = given if isinstance(given[0], list) else [given] * data.channels
    if len(pairs) != data.channels:
        raise DatasetError(
            f"{toml}: got {len(pairs)} ranges, expected one, or {data.channels}, one for each channel: "
            f"correct range"
        )
    if not all(low < high for low, high in pairs):
        raise DatasetError(f"{toml}: got range = {data.range}, expected the lower value first: swap them")
    return tuple((float(low), float(high)) for low, high in pairs)


def class_names(data: DataFile, toml: Path) -> tuple[str, ...] | None:
    """Return the class names that a `data.toml` gives; None if it gives none.

    Raises:
        DatasetError: a duplicate or empty name, or fewer than two names.
    """
    names = tuple(data.names or dict.fromkeys((data.labels or {}).values()) or data.colors or ())
    if not names:
        return None
    if len(names) < 2:
        raise DatasetError(
            f"{toml}: got the only class {names[0]}, expected at least two: name the background too"
        )
    if not all(name.strip() for name in names):
        raise DatasetError(f"{toml}: got an empty class name, expected text: name every class")
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{toml}: got the name {again} twice in names, expected each once: rename one")
    return names


def build_classes(data: DataFile, toml: Path, names: tuple[str, ...]) -> Classes:
    """Return the classes: the names with the colors that `data.toml` gives, or those of PASCAL VOC.

    Raises:
        DatasetError: the number of colors differs from that of names.
    """
    palette: Sequence[Sequence[int]] | None = data.palette
    if palette is None and data.colors is not None and set(names) <= set(data.colors):
        palette = [unpack(_codes(data.colors[name])[0]) for name in names]
    if palette is None:
        return Classes.of(names)
    if len(palette) != len(names):
        raise DatasetError(
            f"{toml}: got {len(palette)} colors in palette, expected {len(names)}, one for each class: "
            f"add or remove colors"
        )
    return Classes(names, tuple((red, green, blue) for red, green, blue in palette))


def label_map(data: DataFile, toml: Path) -> LabelMap | None:
    """Return the map from values or colors of the masks to labels; None if the values are the labels.

    Raises:
        DatasetError: both values and colors, an unknown class, or a value or color that is a duplicate or out
            of range.
    """
    if data.labels is not None and data.colors is not None:
        raise DatasetError(
            f"{toml}: got both labels and colors, expected labels for index masks or colors for color masks: "
            f"remove one of them"
        )
    names = class_names(data, toml)
    if data.labels is None and data.colors is None and not data.ignore and data.unknown == "error":
        return None
    if names is None and data.unknown == "ignore":
        raise DatasetError(
            f'{toml}: got unknown = "ignore" without classes, expected names, labels or colors: add names'
        )
    listed = [*_listed(data, names, toml), *((code, IGNORE) for code in _ignored(data, toml))]
    codes = dict(listed)
    for code, label in listed:
        if codes[code] != label:
            raise DatasetError(
                f"{toml}: got {_shown(code, data)} twice, expected each once: remove it from one place"
            )
    if data.colors is None:
        codes.setdefault(IGNORE, IGNORE)
    return LabelMap(tuple(sorted(codes.items())), "value" if data.colors is None else "color", data.unknown)


def _listed(data: DataFile, names: tuple[str, ...] | None, toml: Path) -> Iterable[tuple[int, int]]:
    """Return each value or color that has a class, with its label."""
    ignored = set(_ignored(data, toml))
    if data.labels is None and data.colors is None:
        return [(value, value) for value in range(len(names) if names else VALUES) if value not in ignored]
    label_of = {name: label for label, name in enumerate(names or ())}
    for name in data.colors or (data.labels or {}).values():
        if name not in label_of:
            table = "labels" if data.colors is None else "colors"
            raise DatasetError(
                f"{toml}: got the class {name} in {table}, expected one of names ({', '.join(label_of)}): "
                f"correct it, or add it to names"
            )
    if data.colors is not None:
        return [(code, label_of[name]) for name, colors in data.colors.items() for code in _codes(colors)]
    return [(_value(text, toml), label_of[name]) for text, name in (data.labels or {}).items()]


def _value(text: str, toml: Path) -> int:
    if not text.isdecimal() or int(text) >= VALUES:
        raise DatasetError(
            f"{toml}: got the value {text} in labels, expected 0..{VALUES - 1}, as in index masks of 8 bits: "
            f"correct it"
        )
    return int(text)


def _ignored(data: DataFile, toml: Path) -> list[int]:
    """Return the values or packed colors of `ignore`."""
    is_color = data.colors is not None
    for entry in data.ignore:
        if isinstance(entry, list) != is_color:
            expected = "colors such as [224, 224, 192], as in colors" if is_color else "values 0..255"
            raise DatasetError(f"{toml}: got {entry} in ignore, expected {expected}: correct it")
    return [pack(_color(entry)) if isinstance(entry, list) else entry for entry in data.ignore]


def _codes(colors: list[int] | list[list[int]]) -> list[int]:
    """Return the packed colors of a class, given one color or a list of colors."""
    first = colors[0]
    several = [colors] if isinstance(first, int) else colors
    return [pack(_color(color)) for color in several]  # type: ignore[arg-type]


def _color(channels: Sequence[int]) -> Color:
    red, green, blue = channels
    return red, green, blue


def _shown(code: int, data: DataFile) -> str:
    return f"the value {code}" if data.colors is None else f"the color {list(unpack(code))}"
