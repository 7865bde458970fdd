"""Predictor of classifiers in PyTorch: images in, a probability for each class out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.bundle.weights import load_classifier
from zoo.predictors.session import renew_after_fork
from zoo.predictors.upload import upload
from zoo.preprocess import check_image, normalize, resize_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zoo.bundle.bundle import BundleConfig
    from zoo.models.classifier import ImageClassifier


class TagPredictor:
    """A loaded classifier, which predicts no masks and is not a `Predictor`.

    Args:
        classifier: network, which is moved to `device`.
        config: configuration with classes and preprocessing.
        device: `cpu` or `cuda`.
    """

    backend = "eager"

    def __init__(self, classifier: ImageClassifier, config: BundleConfig, device: str = "cpu") -> None:
        self.classes, self.preprocessing = config.classes, config.preprocessing
        self.device = torch.device(device)
        self.classifier = classifier.eval().to(self.device)
        renew_after_fork(self)

    @property
    def description(self) -> str:
        """Return PyTorch's version and the device."""
        return f"PyTorch {torch.__version__} {self.device}"

    @torch.inference_mode()
    def predict(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probability that each class is present in the image, (K,) float32.

        Args:
            image: (H, W, C) of the format, of any size.

        Raises:
            InvalidImageError: an array of another format.
        """
        check_image(image, self.preprocessing.format)
        resized = resize_image(image, self.preprocessing.model_size(*image.shape[:2]))
        planes = upload(resized[None], self.device).permute(0, 3, 1, 2)
        prob = self.classifier.prob(self.classifier(normalize(planes, self.preprocessing)))
        array: NDArray[np.float32] = prob[0].float().cpu().numpy()
        return array

    def renew(self) -> None:
        """Limit PyTorch to one thread: it would wait forever for the threads of the parent process."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)


def load_tag_predictor(folder: Path, device: str = "cpu") -> TagPredictor:
    """Return the predictor of a classifier's bundle.

    Raises:
        BundleError: `folder` is not a usable bundle of a classifier.
    """
    return TagPredictor(*load_classifier(folder), device)
