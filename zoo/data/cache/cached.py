"""Source that decodes each image and mask once and keeps the pixels in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from zoo.data.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from zoo.data.source import Split

GB = 10**9

Kind = Literal["image", "mask"]


class Cache(Protocol):
    """Cache of decoded pixels, shared by processes; it may decline to store more."""

    def get(self, kind: Kind, id_: str) -> NDArray[Any] | None:
        """Return the cached pixels of an id, which must not be written to; None if they are not cached."""

    def put(self, kind: Kind, id_: str, pixels: NDArray[Any]) -> None:
        """Store the pixels of an id if there is room."""


class CachedSource(Source):
    """A source that reads pixels from a cache and falls back to another source; the pixels are identical.

    Args:
        source: source that reads pixels that are not cached.
        cache: cache of the decoded pixels.
    """

    def __init__(self, source: Source, cache: Cache) -> None:
        super().__init__(source.spec, source.classes, source.format)
        self.source, self.cache = source, cache

    def ids(self, split: Split) -> tuple[str, ...]:
        return self.source.ids(split)

    def read_image(self, id_: str) -> NDArray[Any]:
        return self._read("image", id_, self.source.read_image)

    def read_mask(self, id_: str) -> NDArray[Any]:
        return self._read("mask", id_, self.source.read_mask)

    def precise_ids(self) -> frozenset[str] | None:
        return self.source.precise_ids()

    def _read(self, kind: Kind, id_: str, read: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        kept = self.cache.get(kind, id_)
        if kept is not None:
            return kept
        pixels = read(id_)
        self.cache.put(kind, id_, pixels)
        return pixels
