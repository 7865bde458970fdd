"""Confidence thresholds by class: a class of which a network is less sure gets a lower one.

Curriculum pseudo-labels of FlexMatch (Zhang et al., NeurIPS 2021, Eq. 5 and 7): the threshold of a class is
the common one times how well the class is learned, relative to the best one. There that is the number of
confident predictions of a class; pixels of rare classes are few however well they are learned, so here it is
the mean confidence of the pixels that are predicted to have the class, as an exponential moving average.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.train.blocks.gather import gathered

DECAY = 0.99
"""Of the moving average. FreeMatch (Wang et al., ICLR 2023) has 0.999, over a hundred times as many steps."""


class ClassConfidence(nn.Module):
    """Mean confidence of each class; 0 until the class is predicted. Checkpoints keep it.

    Args:
        num_classes: number of classes K.
    """

    mean: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_classes))

    @torch.no_grad()
    def update(self, confidence: Tensor, label: Tensor, valid: Tensor) -> None:
        """Move the means by the predictions of a batch, of all processes.

        Args:
            confidence: (B, H, W) float, probability of the predicted class.
            label: (B, H, W) int64, predicted class.
            valid: (B, H, W) bool, whether a pixel counts; one whose confidence is not finite does not.
        """
        valid = valid & confidence.isfinite()
        counted = torch.stack([confidence.where(valid, 0), valid.to(confidence.dtype)]).double().flatten(1)
        sums = counted.new_zeros(2, len(self.mean)).index_add_(1, label.flatten(), counted)
        total, count = gathered(sums).sum(dim=0).to(self.mean.dtype)
        now = total / count.clamp(min=1)
        moved = now.where(self.mean == 0, DECAY * self.mean + (1 - DECAY) * now)
        self.mean.copy_(moved.where(count > 0, self.mean))

    def thresholds(self, label: Tensor, threshold: float) -> Tensor:
        """Return the threshold of the class of each pixel, (B, H, W) float.

        Args:
            label: (B, H, W) int64, predicted class.
            threshold: threshold of the best learned class, and of classes that were never predicted.
        """
        learned = self.mean / self.mean.max().clamp(min=torch.finfo(self.mean.dtype).tiny)
        return threshold * learned.where(learned > 0, 1)[label]
