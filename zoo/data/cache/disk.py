"""Cache of decoded pixels on disk, for this run and later ones.

A file holds the raw pixels of one image or mask. Its name is a hash of everything that they depend on: path,
size and modification time of the original, the mapping of mask values, and the version of the decoder. A
changed original has another name, so entries never go stale; the folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import features
from torch.utils.data import get_worker_info

from zoo.bundle.bundle import replacing
from zoo.data.cache.cached import GB
from zoo.data.files import FileSource
from zoo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from zoo.data.cache.cached import Kind
    from zoo.data.source import Source

log = logging.getLogger(__name__)

SUFFIX = ".pixels"
MAGIC = b"zoopix01"
HEAD = struct.Struct("<8sIIII8x")
"""Magic, height, width, channels (0 for a mask), CRC-32 of the pixels; the pixels follow."""
DECODER = f"Pillow {PIL.__version__}, JPEG {features.version_codec('jpg')}"


class DiskCache:
    """Cache that stores pixels in a folder until the disk space it may use is exhausted.

    Args:
        source: source of image files.
        folder: folder of the cache, created if it does not exist.
        limit: bytes that may be written from now on; None for half of the free space.

    Raises:
        DatasetError: the source draws its images, or the folder cannot be created.
    """

    def __init__(self, source: Source, folder: Path, limit: int | None) -> None:
        if not isinstance(source, FileSource):
            raise DatasetError(
                f"data.cache disk: got {source.spec}, whose images are drawn, expected files: take "
                f"data.cache=memory"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise DatasetError(
                f"{folder}: got no folder for decoded images ({error.strerror}), expected one that can be "
                f"written to: name another with --set data.cache_dir=DIR"
            ) from error
        self.source, self.folder = source, folder
        self.spare = free // 2 if limit is None else max(0, free - limit)
        """Bytes of disk space to leave free."""
        self._sound: set[str] = set()
        self._is_full = False

    def get(self, kind: Kind, id_: str) -> NDArray[Any] | None:
        """Return the cached pixels; None if they are not cached. A corrupt file is removed."""
        path = self._path(kind, id_)
        try:
            with path.open("rb") as file:
                pixels = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            return None
        except ValueError:  # an empty file
            pixels = None
        dtype = self.source.format.numpy if kind == "image" else np.dtype(np.uint8)
        kept = None if pixels is None else _unpacked(pixels, dtype, is_sound=path.name in self._sound)
        if kept is None:
            log.warning("%s is damaged: removed, %s is decoded again", path, id_)
            path.unlink(missing_ok=True)
            return None
        self._sound.add(path.name)
        return kept

    def put(self, kind: Kind, id_: str, pixels: NDArray[Any]) -> None:
        """Store pixels, (H, W, C) or (H, W), if there is room."""
        if shutil.disk_usage(self.folder).free - pixels.nbytes < self.spare:
            self._say_full()
            return
        pixels = np.ascontiguousarray(pixels)
        shape = (*pixels.shape, *([0] if pixels.ndim == 2 else []))
        try:
            with replacing(self._path(kind, id_)) as temporary, temporary.open("wb") as file:
                file.write(HEAD.pack(MAGIC, *shape, zlib.crc32(pixels.data)))
                file.write(pixels.data)
        except OSError as error:  # the disk or quota has filled: continue without caching
            self._say_full(f" ({error.strerror})")

    def _path(self, kind: Kind, id_: str) -> Path:
        image, mask, drawing = self.source.files[id_]
        original = image if kind == "image" or mask is None else mask
        format_ = self.source.format
        as_read = "" if format_.is_rgb else str(format_)
        meaning = as_read if kind == "image" else repr((self.source.labels, self.source.palettes, drawing))
        layers = () if kind == "image" or drawing is None else drawing.paths
        stats = [
            (found.st_size, found.st_mtime_ns) for found in (path.stat() for path in (original, *layers))
        ]
        parts = (DECODER, kind, os.fspath(original.resolve()), *stats[0], *stats[1:], meaning)
        return self.folder / (hashlib.sha256(repr(parts).encode()).hexdigest()[:32] + SUFFIX)

    def _say_full(self, why: str = "") -> None:
        """Log once, in the first data worker only, that the cache is full."""
        worker = get_worker_info()
        if not self._is_full and (worker is None or worker.id == 0):
            log.warning(
                "data.cache disk: no more is kept in %s%s, %.2f GB stay free; the others are decoded each "
                "time (--set data.cache_gb=... for more)",
                self.folder,
                why,
                self.spare / GB,
            )
        self._is_full = True


def _unpacked(content: mmap.mmap, dtype: np.dtype[Any], *, is_sound: bool) -> NDArray[Any] | None:
    """Return the pixels of a cache file; None if it is corrupt.

    Args:
        content: memory-mapped file.
        dtype: element type of the pixels.
        is_sound: whether this process has already verified its checksum.
    """
    if len(content) < HEAD.size:
        return None
    magic, height, width, channels, crc = HEAD.unpack_from(content)
    shape = (height, width, channels) if channels else (height, width)
    if magic != MAGIC or len(content) != HEAD.size + dtype.itemsize * np.prod(shape, dtype=np.int64):
        return None
    pixels: NDArray[Any] = np.ndarray(shape, dtype, content, HEAD.size)
    return pixels if is_sound or zlib.crc32(pixels.data) == crc else None
