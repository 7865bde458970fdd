"""Losses on tags, the classes of an image: MLMT's classification and consistency, by its paper and its code.

All are means over the images of a batch; none makes the host wait for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def binary_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Return the mean binary cross entropy over images and classes, each class judged by itself.

    Args:
        logits: (B, K) float.
        tags: (B, K) bool, the classes that are in the image.
    """
    return F.binary_cross_entropy_with_logits(logits, tags.to(logits.dtype))


def categorical_cross_entropy(logits: Tensor, tags: Tensor) -> Tensor:
    """Return the cross entropy of the softmax against the multi-hot tags, first part of s4GAN's Eq. (6).

    An image counts once for each of its classes, as the equation has it; one without classes adds zero.

    Args:
        logits: (B, K) float.
        tags: (B, K) bool, the classes that are in the image.
    """
    return -(tags * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of 1 - cos of two predictions of an image, in 0..2.

    Args:
        student: (B, K) float, logits.
        teacher: (B, K) float, logits; receives no gradient.
    """
    return 1 - F.cosine_similarity(student, teacher.detach(), dim=1).mean()


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference over images and classes, second part of s4GAN's Eq. (6).

    The equation writes the squared norm, the text beside it "mean-squared error", which this is.

    Args:
        student: (B, K) float, probabilities.
        teacher: (B, K) float, probabilities; receives no gradient.
    """
    return F.mse_loss(student, teacher.detach())
