"""A source whose images and masks are decoded once: what was read is kept by a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from zoo.data.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from zoo.data.source import Split

GB = 10**9

Kind = Literal["image", "mask"]


class Cache(Protocol):
    """Keeps decoded pixels for several processes; may keep fewer than it is given."""

    def get(self, kind: Kind, id_: str) -> NDArray[np.uint8] | None:
        """Return what is kept of an id, None of what is not; nobody may write to it."""

    def put(self, kind: Kind, id_: str, pixels: NDArray[np.uint8]) -> None:
        """Keep the pixels of an id, if there is room."""


class CachedSource(Source):
    """A source whose pixels come from a cache where it has them, bit by bit the same.

    Args:
        source: where they come from otherwise.
        cache: of them.
    """

    def __init__(self, source: Source, cache: Cache) -> None:
        super().__init__(source.spec, source.classes)
        self.source, self.cache = source, cache

    def ids(self, split: Split) -> tuple[str, ...]:
        return self.source.ids(split)

    def read_image(self, id_: str) -> NDArray[np.uint8]:
        return self._read("image", id_, self.source.read_image)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return self._read("mask", id_, self.source.read_mask)

    def precise_ids(self) -> frozenset[str] | None:
        return self.source.precise_ids()

    def _read(self, kind: Kind, id_: str, read: Callable[[str], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        kept = self.cache.get(kind, id_)
        if kept is not None:
            return kept
        pixels = read(id_)
        self.cache.put(kind, id_, pixels)
        return pixels
