"""Resolution of INPUT on the command line: images, folders of images, patterns, or a data source."""

from __future__ import annotations

import glob
import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import DatasetError, InvalidImageError, ZooError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from zoo.image_format import ImageFormat


log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"))
SCENE_SUFFIXES = frozenset((".btf", ".svs", ".tif", ".tiff"))
"""Suffixes of TIFF files, which are read by rows if they are predicted in tiles."""

ADDRESS = re.compile(r"(rtsps?|rtmps?|srt|udp|rtp|tcp)://.")
"""Schemes of the addresses of live streams."""


class Input(NamedTuple):
    """One image or video to predict.

    Args:
        name: name in tables and messages.
        outputs: candidate names of its results, without suffix, from the shortest to a unique one.
        path: absolute path of its file; None for an image of a data source, and for a live stream.
        read: function that returns the image, (H, W, C) of the format of the model.
        video: path of a video, or address of a live stream; None for an image.
        is_scene: whether it is a TIFF that is read by rows (`zoo.predict.scene`).
    """

    name: str
    outputs: tuple[str, str, str]
    path: str | None
    read: Callable[[], NDArray[Any]]
    video: str | None = None
    is_scene: bool = False


def find_inputs(
    texts: Sequence[str], limit: int, out: Path, format_: ImageFormat | None = None, *, by_rows: bool = False
) -> list[Input]:
    """Return the images that INPUTs name, without duplicates.

    Args:
        texts: files, folders (searched recursively for images), patterns, data sources such as `shapes`, or
            addresses of live streams.
        limit: largest number of images from a data source.
        out: output folder, which is not searched.
        format_: format of the images that the model takes; None for 8-bit RGB.
        by_rows: whether TIFF files are read by rows.

    Raises:
        ZooError: an INPUT that names no images, or images of another format, or TIFF files without rasterio.
    """
    from zoo.image_format import RGB

    format_ = format_ or RGB
    sources = [text for text in dict.fromkeys(texts) if is_source(text)]
    streams = [text for text in dict.fromkeys(texts) if is_address(text)]
    files: dict[str, tuple[str, str]] = {}
    working = Path.cwd()
    for text in texts:
        if text not in (*sources, *streams):
            for name, short in _files(text, out, format_):
                files.setdefault(_place(working, name), (name, short))
    found = [input_ for text in sources for input_ in _of_source(text, limit, format_)]
    if files:
        from zoo.images import read_rgb
        from zoo.rasters import read_raster

        common = len(os.path.commonpath({os.path.dirname(path) for path in files}))  # noqa: PTH120
        read = read_rgb if format_.is_rgb else partial(read_raster, format_=format_)
        found += [_of_file(path, *names, path[common:].lstrip(os.sep), read) for path, names in files.items()]
    if by_rows:
        found = _by_rows(found)
    found += [_of_stream(text) for text in streams]
    if videos := [each.name for each in found if each.video is not None and not format_.is_rgb]:
        raise ZooError(
            f"{videos[0]} is a video, whose frames are 8-bit RGB, expected images of {format_}: leave it out"
        )
    return found


def _place(working: Path, name: str) -> str:
    """Return the absolute path of a file, without `..`, which would lead out of the folder of results."""
    path = os.path.join(working, name)  # noqa: PTH118 - of 100,000 names
    if f"{os.sep}{os.pardir}{os.sep}" not in path:
        return path
    folder, last = os.path.split(path)
    return os.path.join(os.path.realpath(folder), last)  # noqa: PTH118


def is_source(text: str) -> bool:
    """Return whether an INPUT is a data source (`shapes`, a `data.toml`) rather than images."""
    from zoo.data.open import built_in_name, is_published

    return bool(built_in_name(text)) or is_published(text) or text.endswith(".toml")


def is_image_name(path: Path) -> bool:
    """Return whether the suffix of a file in a folder is that of an image."""
    from zoo.data.files import ARRAY_SUFFIX, IMAGE_SUFFIXES

    return path.suffix.lower() in {*IMAGE_SUFFIXES, ARRAY_SUFFIX}


def _of_source(spec: str, limit: int, format_: ImageFormat) -> list[Input]:
    from zoo.data.open import open_source

    source = open_source(spec)
    source.check_format(format_)
    ids = source.ids("val") or source.ids("unlabeled") or source.ids("train")
    if not ids:
        raise DatasetError(f"{spec} has no images, expected some in val, unlabeled or train")
    long = Path(spec).stem
    return [
        Input(id_, (id_, f"{long}/{id_}", f"{long}/{id_}"), None, partial(source.read_image, id_))
        for id_ in ids[:limit]
    ]


def _by_rows(found: list[Input]) -> list[Input]:
    """Return inputs of which TIFF files are read by rows."""
    from zoo.predict.scene import check_extra

    scenes = [
        each.path is not None and os.path.splitext(each.name)[1].lower() in SCENE_SUFFIXES  # noqa: PTH122
        for each in found
    ]
    if any(scenes):
        check_extra(found[scenes.index(True)].name)
    return [each._replace(is_scene=is_scene) for each, is_scene in zip(found, scenes, strict=True)]


def _of_stream(address: str) -> Input:
    name = re.sub("(?<=//)[^/]*@", "", address)  # a password stays out of names and journals
    short = re.sub(r"\W+", "_", name).strip("_")
    return Input(name, (short, short, short), None, partial(_refuse, name), address)


def _of_file(path: str, name: str, short: str, relative: str, read: Callable[[Path], NDArray[Any]]) -> Input:
    outputs = _stem(short), _stem(relative), relative
    if is_video(name):
        return Input(name, outputs, path, partial(_refuse, name), path)
    return Input(name, outputs, path, partial(read, Path(name)))


def _files(text: str, out: Path, format_: ImageFormat) -> Iterator[tuple[str, str]]:
    """Yield the files that an INPUT names, each with its path relative to the folder or pattern."""
    path, skipped = Path(text), ""
    if path.is_dir():
        (found, skipped), root = _walk(path, out, format_), path
    elif path.is_file():
        found, root = [str(path)], path.parent
    elif glob.has_magic(text):
        root = _root(path)
        found = [name for name in sorted(_match(path, root, out)) if os.path.isfile(name)]  # noqa: PTH113
    else:
        raise ZooError(f"{text} does not exist, expected an image, a video, a folder, a pattern or shapes")
    if not path.is_file():
        found = _without_results(found, out)
    if not found:
        but = f" (skipped: {skipped})" if skipped else ""
        raise ZooError(
            f"{text} matches no images{but}, expected files such as photo.jpg or photo.png: check the path"
        )
    if skipped:
        log.warning("%s: skipped %s", text, skipped)
    above = "" if root == Path() else os.path.join(root, "")  # noqa: PTH118
    for name in found:
        yield name, name[len(above) :]


def _walk(folder: Path, out: Path, format_: ImageFormat) -> tuple[list[str], str]:
    """Return the images in a folder without results of earlier predictions, and what was skipped."""
    from zoo.data.files import image_suffixes
    from zoo.data.walk import walk

    tree = walk(
        folder, image_suffixes(format_), lambda path: path.endswith(out.name) and _same(Path(path), out)
    )
    return [str(path) for path in tree.files], tree.skipped()


def _match(pattern: Path, root: Path, out: Path) -> Iterator[str]:
    """Yield the matches of a pattern, without results of earlier predictions unless it names their folder."""
    results = os.path.join(os.path.abspath(out), "")  # noqa: PTH100, PTH118
    inside = results.startswith(os.path.join(os.path.abspath(root), "")) and not _same(root, out)  # noqa: PTH100, PTH118
    for name in glob.iglob(str(pattern), recursive=True):  # noqa: PTH207
        if not (inside and os.path.abspath(name).startswith(results)) and not _is_hidden(name, pattern):  # noqa: PTH100
            yield name


def _is_hidden(name: str, pattern: Path) -> bool:
    """Return whether a match lies in a hidden folder that its pattern does not name."""
    from zoo.data.walk import is_hidden_folder

    return any(map(is_hidden_folder, set(Path(name).parts[:-1]) - set(pattern.parts) - {".", ".."}))


def _without_results(names: list[str], out: Path) -> list[str]:
    """Return files without the results of earlier predictions in the same folder."""
    from zoo.predict.outputs import results_in

    above = os.path.join(os.path.abspath(out), "")  # noqa: PTH100, PTH118
    if not any(os.path.abspath(name).startswith(above) for name in names):  # noqa: PTH100
        return names
    results = {above + name for name in results_in(out)}
    return [name for name in names if os.path.abspath(name) not in results]  # noqa: PTH100


def _same(folder: Path, out: Path) -> bool:
    return os.path.abspath(folder) == os.path.abspath(out)  # noqa: PTH100


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122


def _root(pattern: Path) -> Path:
    """Return the folder above the first wildcard of a pattern."""
    return next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))


def is_video(name: str) -> bool:
    """Return whether a file is a video, by its suffix."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def is_address(name: str) -> bool:
    """Return whether an INPUT is the address of a live stream."""
    return ADDRESS.match(name) is not None


def _refuse(name: str) -> NDArray[Any]:
    """Raise: a video is not read as one image."""
    raise InvalidImageError(f"{name} is a video, expected an image: predict it without --ray")
