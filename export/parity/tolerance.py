"""Tolerances that artifacts must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.frozen import Frozen

if TYPE_CHECKING:
    from zoo.export.parity.accuracy import Accuracy
    from zoo.predictors.artifact import Precision


class Tolerance(Frozen):
    """Tolerance of an artifact at every shape, and on labeled images if there are any.

    Args:
        min_agreement: minimum share of pixels with the reference's class.
        max_margin: maximum margin of a differing pixel, relative to the logits' range; None for any.
        max_drop: maximum drop of mIoU, 0 to 1; None for any. An artifact fails only if even the favorable
            bound of its 95 % interval exceeds it, so that a good one does not fail by chance on few images.
        max_error: maximum mean absolute error of each output except the mask, relative to its range.
    """

    min_agreement: float
    max_margin: float | None = None
    max_drop: float | None = None
    max_error: float = 5e-2

    def __str__(self) -> str:
        margin = "" if self.max_margin is None else f", margin < {self.max_margin:g}"
        drop = "" if self.max_drop is None else f", drop <= {100 * self.max_drop:g} points"
        return f">= {self.min_agreement:g}{margin}{drop}"

    def allows(self, agreement: float, margin: float) -> bool:
        """Return whether a difference of masks is within the tolerance."""
        near = self.max_margin is None or margin < self.max_margin
        return near and agreement >= self.min_agreement

    def allows_drop(self, accuracy: Accuracy | None) -> bool:
        """Return whether the drop of mIoU is within the tolerance; always without labeled images."""
        return self.max_drop is None or accuracy is None or -accuracy.high <= self.max_drop

    def is_shown(self, accuracy: Accuracy) -> bool:
        """Return whether the whole interval of the drop is within the tolerance."""
        return self.max_drop is None or -accuracy.low <= self.max_drop


GATES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(min_agreement=0.9999, max_margin=1e-3, max_drop=1e-3, max_error=1e-4),
    "fp16": Tolerance(min_agreement=0.999, max_drop=2e-3, max_error=5e-3),
    "bf16": Tolerance(min_agreement=0.998, max_drop=5e-3, max_error=2e-2),
    "int8": Tolerance(min_agreement=0.98, max_drop=5e-3, max_error=5e-2),
}
"""A hardly trained model has so many near ties that fp16 can miss its gate: `--min-agreement` is for that."""
