"""Boundary IoU (Cheng et al., CVPR 2021, section 4): the IoU of the regions near class boundaries.

The boundary region of a class in a mask is the part that an erosion by d pixels removes, where d is 2 % of
the image's diagonal; the image's border counts as a boundary. For the regions G of the label and P of the
prediction,

    IoU_k = |G and P| / |G or P|

with both counts summed over all images of a split. Pixels labeled `IGNORE` belong to no region.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.classes import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.classes import Classes, Mask

RATIO = 0.02


class BoundaryIou:
    """Counts of pixels in the boundary regions of each class.

    Args:
        num_classes: number of classes K.
        ratio: ratio of d to the image's diagonal.
    """

    def __init__(self, num_classes: int, ratio: float = RATIO) -> None:
        self.ratio = ratio
        self.both = np.zeros(num_classes, np.int64)
        self.either = np.zeros(num_classes, np.int64)
        self.is_labeled = np.zeros(num_classes, np.bool_)

    def update(self, label: NDArray[np.uint8], prediction: Mask) -> None:
        """Count the pixels of one image.

        Args:
            label: (H, W) uint8, 0..K-1 or `IGNORE`.
            prediction: (H, W), 0..K-1.
        """
        width = max(1, round(self.ratio * math.hypot(*label.shape)))
        counted = label != IGNORE
        self.is_labeled[np.unique(label[counted])] = True
        for k in np.union1d(label[counted], prediction[counted]):
            truth = boundary((label == k) & counted, width)
            predicted = boundary((prediction == k) & counted, width)
            self.both[k] += np.count_nonzero(truth & predicted)
            self.either[k] += np.count_nonzero(truth | predicted)

    def as_dict(self, classes: Classes) -> dict[str, Any]:
        """Return `boundary_miou` and `boundary_iou` by class name (None: not labeled), ready for JSON."""
        present = self.is_labeled & (self.either > 0)
        iou = self.both[present] / self.either[present]
        by_class: dict[str, float | None] = dict.fromkeys(classes.names)
        by_class |= dict(zip(np.array(classes.names)[present].tolist(), iou.tolist(), strict=True))
        return {"boundary_miou": float(iou.mean()) if present.any() else None, "boundary_iou": by_class}


def boundary(region: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels that an erosion of a region removes, by a square of `width` pixels on each side.

    Args:
        region: (H, W) bool.
        width: distance in pixels, at least 1.
    """
    inner = _eroded(_eroded(region, width, 0), width, 1)
    return region & ~inner


def _eroded(region: NDArray[np.bool_], width: int, axis: int) -> NDArray[np.bool_]:
    """Return whether all pixels within `width` along an axis are in the region, by a running sum."""
    window = 2 * width + 1
    outside = [(0, 0), (0, 0)]
    outside[axis] = (width + 1, width)
    total = np.pad(region, outside).cumsum(axis=axis, dtype=np.int32)
    later = total.take(range(window, total.shape[axis]), axis=axis)
    earlier = total.take(range(total.shape[axis] - window), axis=axis)
    return np.asarray(later - earlier == window)
