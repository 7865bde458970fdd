"""Prediction of TIFF files of any size in tiles: read by rows, and written by rows as GeoTIFF.

Reference system and position are kept. Memory grows with the width of a file and not with its height. Needs
rasterio (extra `geo`).
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.classes import IGNORE
from zoo.errors import InvalidImageError, ZooError
from zoo.image_format import check_finite, displayed
from zoo.images import ORIENTATION
from zoo.predict.outputs import OVERLAY, Result, describe, files, named_areas, new_files
from zoo.predictors.outputs import MASK
from zoo.predictors.tiles import predict_rows
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.image_format import ImageFormat
    from zoo.predict.inputs import Input
    from zoo.predict.outputs import Job
    from zoo.predict.stream import Options
    from zoo.predictors.base import Predictor

BLOCK = 256
"""Side in pixels of the blocks of written files."""

CACHE_MB = 128
"""Memory of GDAL for blocks of files."""


def check_extra(name: str) -> None:
    """Raise unless rasterio is installed, which a TIFF in tiles needs."""
    if find_spec("rasterio") is None:
        raise ZooError(
            f"{name}: got a TIFF with tiles, expected rasterio to read it by rows: "
            f"pip install 'semiseg-zoo[geo]'"
        )


class Scene:
    """A TIFF file of which rows are read.

    Args:
        source: opened dataset of rasterio, whose bands are the channels of the format, or gray.
        format_: format of the images that the model takes.
        name: name of the file in messages.
    """

    def __init__(self, source: Any, format_: ImageFormat, name: str) -> None:
        self.source, self.format, self.name = source, format_, name
        count = _channels(source, format_)
        self.bands = [1] * format_.channels if count == 1 else list(range(1, count + 1))
        self.shape = (source.height, source.width, format_.channels)
        flags = {flag.name for each in source.mask_flag_enums for flag in each}
        self.has_gaps = flags != {"all_valid"} and not ("alpha" in flags and count == source.count)
        self.gaps_by_band = any(value not in (None, 0) for value in source.nodatavals)
        """Whether one band without data is a gap; 0 in one band is also a dark pixel."""

    @staticmethod
    def reads(source: Any, format_: ImageFormat, name: str) -> bool:
        """Return whether the bands of a dataset are the channels of a format, so that rows can be read alone.

        A file with a palette, or with its channels as pages, is read whole.

        Raises:
            InvalidImageError: a dataset of another format.
        """
        from rasterio.enums import ColorInterp

        count, types = _channels(source, format_), set(source.dtypes)
        if ColorInterp.palette in source.colorinterp:
            return False
        if count in _counts(format_) and types == {format_.dtype}:
            return True
        if not format_.is_rgb and len(source.subdatasets) > 1:
            return False
        raise InvalidImageError(
            f"{name} has {count} x {' and '.join(sorted(types))} as bands, expected {format_}: convert it"
        )

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return rows of the image, (h, W, C); 0 where it has no data.

        Raises:
            InvalidImageError: rows that cannot be decoded, or values that are not finite.
        """
        pixels = self._read(rows, partial(self.source.read, self.bands))
        if self.has_gaps:
            pixels[:, self.gaps(rows)] = 0
        image = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
        check_finite(image, self.name)
        return image

    def gaps(self, rows: slice) -> NDArray[np.bool_]:
        """Return which pixels of the rows are transparent or have no data, (h, W).

        A value for "no data" counts in any band, but 0 only in all of them.
        """
        found: NDArray[np.bool_] = self._read(rows, self.source.dataset_mask) == 0
        if self.gaps_by_band:
            found |= (self._read(rows, partial(self.source.read_masks, self.bands)) == 0).any(axis=0)
        return found

    def _read(self, rows: slice, read: Any) -> NDArray[Any]:
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        top, bottom, _ = rows.indices(self.source.height)
        try:
            found: NDArray[Any] = read(window=Window(0, top, self.source.width, bottom - top))
        except RasterioError as error:
            raise _unreadable(self.name, error) from error
        return found


def _counts(format_: ImageFormat) -> tuple[int, ...]:
    """Return the numbers of bands that are images of a format."""
    return (1, 3) if format_.is_rgb else (format_.channels,)


def _channels(source: Any, format_: ImageFormat) -> int:
    """Return the number of bands without an alpha, which GDAL also calls a fourth channel."""
    from rasterio.enums import ColorInterp

    count = int(source.count)
    has_alpha = count - 1 in _counts(format_) and source.colorinterp[-1] == ColorInterp.alpha
    return count - (has_alpha and count not in _counts(format_))


def _unreadable(name: str, error: Exception) -> InvalidImageError:
    reason = str(error.__cause__ or error)  # rasterio gives that of GDAL as the cause
    return InvalidImageError(f"{name} cannot be read ({reason}): get or save the image again")


@contextmanager
def _quiet() -> Iterator[None]:
    """Bound the memory of GDAL, and leave out the warning that a file has no position."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _opened(input_: Input, format_: ImageFormat) -> Iterator[tuple[Scene | NDArray[Any], dict[str, Any]]]:
    """Provide the image and the position of a file, as arguments of `rasterio.open`.

    A file that is turned, has a palette or holds its channels as pages is read whole.

    Raises:
        InvalidImageError: it cannot be read, or is of another format.
    """
    import rasterio
    import tifffile
    from rasterio.errors import RasterioError

    assert input_.path is not None
    try:
        with tifffile.TiffFile(input_.path) as file:  # GDAL ignores how an image is turned
            is_turned = file.pages.first.tags.valueof(ORIENTATION, default=1) != 1
        source = rasterio.open(input_.path)
    except (RasterioError, tifffile.TiffFileError, OSError) as error:
        raise _unreadable(input_.name, error) from error
    with source:
        if is_turned:
            yield input_.read(), {}
            return
        where = {"crs": source.crs, "transform": None if source.transform.is_identity else source.transform}
        points, system = source.gcps
        if points:
            where = {"crs": system, "gcps": points}
        if source.rpcs is not None:
            where["rpcs"] = source.rpcs
        is_direct = Scene.reads(source, format_, input_.name)
        yield Scene(source, format_, input_.name) if is_direct else input_.read(), where


def write_scene(job: Job, predictor: Predictor, options: Options, out: Path, kinds: Sequence[str]) -> Result:
    """Return the result of a TIFF file, with its outputs written to temporary files in their final folder.

    A mask has the colors of its classes, and `IGNORE`, its value for "no data", where the image has none.

    Args:
        job: a TIFF file.
        predictor: model that predicts.
        options: options of batches and outputs, with tiles.
        out: output folder.
        kinds: kinds of the requested results, including `MASK`.

    Raises:
        InvalidImageError: a file that cannot be read, or that the model does not take.
        OSError: a file cannot be written; no temporary file is left.
    """
    names = {kind: job.file(kind) for kind in kinds}
    begin = time.perf_counter()
    with (
        _quiet(),
        new_files(names, out) as (paths, written),
        _opened(job.input, predictor.format) as (image, where),
    ):
        counts = _write(image, where, paths, predictor, options)
    size = image.shape[:2]
    record = {
        **describe(job),
        "size": list(size),
        "areas": named_areas(
            {label: count / (size[0] * size[1]) for label, count in counts.most_common()}, predictor.classes
        ),
        "ms": (time.perf_counter() - begin) * 1000,
        **{kind: names.get(kind) for kind in files()},
    }
    return Result(record, written)


def _write(
    image: Scene | NDArray[Any],
    where: Mapping[str, Any],
    paths: Mapping[str, Path],
    predictor: Predictor,
    options: Options,
) -> Counter[int]:
    """Write the outputs of an image to files by kind, and return the number of pixels of each label."""
    assert options.tiling is not None
    size, classes, counts = (image.shape[0], image.shape[1]), predictor.classes, Counter[int]()
    batch = options.batch_of(options.tiling.tile_of(size))
    with ExitStack() as stack, Progress(size[0], "rows") as progress:
        files_ = {
            kind: stack.enter_context(_Writer(path, kind, size, where, classes))
            for kind, path in paths.items()
        }
        for top, found in predict_rows(predictor, image, options.tiling, options.outputs, batch):
            rows = slice(top, top + len(found[MASK]))
            if isinstance(image, Scene) and image.has_gaps and len(classes) <= IGNORE:
                found[MASK][image.gaps(rows)] = IGNORE
            counts.update(dict(enumerate(np.bincount(found[MASK].ravel()).tolist())))
            if OVERLAY in files_:
                found[OVERLAY] = _overlay(image[rows], found[MASK], predictor)
            for kind, file in files_.items():
                file.add(found[kind])
            progress.advance(rows.stop - top)
    return +counts


def _overlay(image: NDArray[Any], mask: NDArray[Any], predictor: Predictor) -> NDArray[np.uint8]:
    from zoo.pages.overlay import overlay

    return overlay(displayed(image, predictor.format), mask, predictor.classes)


class _Writer:
    """A GeoTIFF that is written from top to bottom, in whole blocks.

    Args:
        path: its path; the name may have any suffix.
        kind: `OVERLAY`, or the name of an output.
        size: height and width.
        where: position, as arguments of `rasterio.open`.
        classes: classes whose colors a mask gets.
    """

    def __init__(
        self, path: Path, kind: str, size: tuple[int, int], where: Mapping[str, Any], classes: Classes
    ) -> None:
        import rasterio

        is_wide = kind == MASK and len(classes) > IGNORE
        self.dtype = np.uint16 if is_wide else np.uint8
        self.row, self.waiting = 0, np.empty((0, size[1]), self.dtype)
        self.file = rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size[0],
            width=size[1],
            count=3 if kind == OVERLAY else 1,
            dtype=self.dtype,
            nodata=IGNORE if kind == MASK and not is_wide else None,
            **where,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress="deflate",
            bigtiff="if_safer",
            **({"photometric": "rgb"} if kind == OVERLAY else {}),
        )
        if kind == MASK and not is_wide:
            self.file.write_colormap(1, dict(enumerate(classes.palette)))

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows, (h, W) or (h, W, 3)."""
        rows = rows.astype(self.dtype, copy=False)
        self.waiting = np.concatenate([self.waiting, rows]) if len(self.waiting) else rows
        self._flush(len(self.waiting) // BLOCK * BLOCK)

    def _flush(self, count: int) -> None:
        from rasterio.windows import Window

        if count:
            bands = np.atleast_3d(self.waiting[:count])
            window = Window(0, self.row, bands.shape[1], count)
            self.file.write(np.moveaxis(bands, -1, 0), window=window)
            self.row += count
            self.waiting = self.waiting[count:].copy()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._flush(len(self.waiting))
        self.file.close()
