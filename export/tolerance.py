"""Tolerances that artifacts must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.frozen import Frozen

if TYPE_CHECKING:
    from zoo.export.accuracy import Accuracy
    from zoo.predictors.artifact import Precision


class Gate(Frozen):
    """Tolerance of an artifact at every shape, and on labeled images if there are any.

    Args:
        min_agreement: minimum share of pixels with the reference's class.
        max_margin: the reference's lead at every differing pixel, over the logits' range; None for any.
        max_drop: of mIoU, between 0 and 1. An artifact fails if even the favorable end of the 95 % interval
            of its drop is more: few images, whose intervals are wide, cannot fail a good artifact by chance.
            None for any.
    """

    min_agreement: float
    max_margin: float | None = None
    max_drop: float | None = None

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


GATES: dict[Precision, Gate] = {
    "fp32": Gate(min_agreement=0.9999, max_margin=1e-3, max_drop=1e-3),
    "fp16": Gate(min_agreement=0.999, max_drop=2e-3),
    "bf16": Gate(min_agreement=0.998, max_drop=5e-3),
    "int8": Gate(min_agreement=0.98, max_drop=5e-3),
}
"""A hardly trained model has so many near ties that fp16 can miss its gate: `--min-agreement` is for that."""
