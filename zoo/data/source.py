"""Interface of sources of images: ids by split, and the image and mask of an id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from zoo.errors import DatasetError
from zoo.image_format import RGB

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo.classes import Classes
    from zoo.image_format import ImageFormat

Item = TypeVar("Item")

Split = Literal["train", "unlabeled", "val"]
"""Images of `train` and `val` have masks; those of `unlabeled` have none."""


class Source(ABC):
    """A set of images, some of which have masks.

    Args:
        spec: name of the source on the command line (`shapes`, a folder, a `data.toml`).
        classes: names and colors of the labels.
        format_: format of the images.
    """

    format: ImageFormat = RGB
    """Format of the images, also of a source that does not call this constructor."""

    def __init__(self, spec: str, classes: Classes, format_: ImageFormat = RGB) -> None:
        self.spec = spec
        self.classes = classes
        self.format = format_

    def check_format(self, expected: ImageFormat) -> None:
        """Raise unless images have the format that a model takes.

        Raises:
            DatasetError: another number of channels or element type.
        """
        if not self.format.fits(expected):
            raise DatasetError(
                f"{self.spec} has images of {self.format}, expected {expected}, on which the model was "
                f"trained: take such images, or declare their channels and dtype in data.toml"
            )

    @abstractmethod
    def ids(self, split: Split) -> tuple[str, ...]:
        """Return the ids of a split, in a fixed order; empty if the source has no such split."""

    @abstractmethod
    def read_image(self, id_: str) -> NDArray[Any]:
        """Return the image of an id, (H, W, C) of the format: (H, W, 3) uint8 RGB by default."""

    @abstractmethod
    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        """Return the mask of an id, (H, W) uint8, labels 0..K-1 or `IGNORE`."""

    def precise_ids(self) -> frozenset[str] | None:
        """Return the training ids with high-quality masks; None if all masks are of one quality."""
        return None


def evenly_spaced(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Return items from the middles of equal parts, all of them if there are no more than `count`.

    Example:
        >>> evenly_spaced("abcdefgh", 2)
        ['c', 'g']
    """
    count = min(count, len(items))
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]


class Subset(Source):
    """Some images of a split of another source.

    Args:
        source: source of the images.
        split: split that is reduced; others are unchanged.
        kept: ids of the images in that split.
    """

    others = True
    """Whether other splits keep their images; else they are empty."""

    def __init__(self, source: Source, split: Split, kept: Sequence[str]) -> None:
        super().__init__(source.spec, source.classes, source.format)
        self.source, self.split, self.kept = source, split, tuple(kept)

    def ids(self, split: Split) -> tuple[str, ...]:
        if split == self.split:
            return self.kept
        return self.source.ids(split) if self.others else ()

    def read_image(self, id_: str) -> NDArray[Any]:
        return self.source.read_image(id_)

    def read_mask(self, id_: str) -> NDArray[np.uint8]:
        return self.source.read_mask(id_)

    def precise_ids(self) -> frozenset[str] | None:
        return self.source.precise_ids()
