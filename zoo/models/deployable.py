"""Deployables: the modules kept after training, from normalized images to full-size logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.classifier import ImageClassifier
from zoo.models.config import EnsembleConfig, LocalizedConfig, StudentConfig
from zoo.models.decoders.decoder import resize_logits
from zoo.models.error_localizer import ErrorLocalizer
from zoo.models.segmentation import SegmentationNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.bundle.reliability import Score
    from zoo.models.config import DeployableConfig, GatedConfig

REMOVED = -1e4
"""Logit of a class that the gate removed: below all others, and finite in half precision when resized."""


class Deployable(nn.Module, ABC):
    """A stripped model; a bundle stores its state dict and `config`."""

    config: StudentConfig | EnsembleConfig | LocalizedConfig | GatedConfig

    @abstractmethod
    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution, or at full size if the model needs it.

        Args:
            images: (B, 3, H, W) float, normalized.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H, W) logits.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        return resize_logits(self.decoder_logits(images), images.shape[-2:])


class Judging(Deployable):
    """A deployable that judges its predictions by more than its logits."""

    score: ClassVar[Score]
    """Score of pixels that `judge` returns."""

    @abstractmethod
    def with_evidence(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits of `decoder_logits`, and what else of this pass `judge` needs.

        Args:
            images: (B, 3, H, W) float, normalized.
        """

    @abstractmethod
    def judge(self, images: Tensor, logits: Tensor, evidence: Sequence[Tensor]) -> Tensor:
        """Return the score of each pixel, (B, H, W).

        Args:
            images: (B, 3, H, W) float, normalized.
            logits: (B, K, H, W) float, from `forward`.
            evidence: from `with_evidence`.
        """

    def judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of `forward` and the score of each pixel.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        found, evidence = self.with_evidence(images)
        logits = resize_logits(found, images.shape[-2:])
        return logits, self.judge(images, logits, evidence)


class Student(Deployable):
    """One segmentation network; its embedding head is dropped.

    Args:
        network: segmentation network, which is used in place, not copied.
    """

    config: StudentConfig

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.network.decoder.embed = None
        self.config = StudentConfig(network=network.config.model_copy(update={"embedding_channels": 0}))

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        logits: Tensor = self.network(images).logits
        return logits


class FusedEnsemble(Judging):
    """The weighted average of two networks (RRN, section III-E).

    Its score is the smaller probability that a network gives the predicted class.

    Args:
        branches: networks, which are used in place, not copied.
        config: weights and kind of the average, and the configurations of the networks.
    """

    config: EnsembleConfig
    score = "agreement"

    def __init__(
        self, branches: tuple[SegmentationNetwork, SegmentationNetwork], config: EnsembleConfig
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.agreement = Agreement()
        self.config = config

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return the averaged logits, or the logarithm of the averaged probabilities, (B, K, h, w).

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        return self.with_evidence(images)[0]

    def with_evidence(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits of `decoder_logits`, and those of both branches, each (B, K, h, w).

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        first, second = (self._logits(branch, images) for branch in self.branches)
        return self._average(first, second), (first, second)

    def judge(self, images: Tensor, logits: Tensor, evidence: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the smaller probability that a branch gives the predicted class, (B, H, W).

        Args:
            images: (B, 3, H, W) float, normalized.
            logits: (B, K, H, W) float, from `forward`.
            evidence: logits of both branches, each (B, K, h, w).
        """
        agreement: Tensor = self.agreement(evidence, logits.argmax(dim=1))
        return agreement

    def _average(self, first: Tensor, second: Tensor) -> Tensor:
        weight = self.config.weight_1
        if self.config.average == "logits":
            return weight * first + (1 - weight) * second
        return log_add_exp(
            first.log_softmax(dim=1) + math.log(weight), second.log_softmax(dim=1) + math.log1p(-weight)
        )

    def _logits(self, branch: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = branch(images).logits
        return logits if self.config.resolution == "decoder" else resize_logits(logits, images.shape[-2:])


class Agreement(nn.Module):
    """The smallest probability that a branch gives a class.

    A module, so that the nodes of an exported graph tell its resizing from that of the logits.
    """

    def forward(self, branches: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return the smallest probability, (B, H, W) float.

        It is one over the sum of the exponentials relative to the logit of the class, which costs less than
        softmax; a sum that overflows gives 0.

        Args:
            branches: (B, K, h, w) float logits of each branch, which are resized to the mask.
            mask: (B, H, W) int64 class ids.
        """
        full = [resize_logits(logits.float(), mask.shape[-2:]) for logits in branches]
        sums = [(logits - logits.gather(1, mask[:, None])).exp().sum(dim=1) for logits in full]
        return 1 / torch.stack(sums).amax(dim=0)


class Localized(Judging):
    """A segmentation model with the network that judges its predictions (ELN).

    The logits are those of the model; the localizer runs only in `judge`, whose score is a logit.

    Args:
        segmentation: segmentation model, which is used in place, not copied.
        localizer: localizer of its errors, which is used in place.
        config: configurations of the two.
    """

    config: LocalizedConfig
    score = "localizer"

    def __init__(self, segmentation: Student, localizer: ErrorLocalizer, config: LocalizedConfig) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.localizer = localizer
        self.config = config

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        return self.segmentation.decoder_logits(images)

    def with_evidence(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits of `decoder_logits`, and nothing else.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        return self.decoder_logits(images), ()

    def judge(self, images: Tensor, logits: Tensor, evidence: Sequence[Tensor] = ()) -> Tensor:  # noqa: ARG002
        """Return the logit of "the predicted class is right" of each pixel, (B, H, W).

        Training weights right and wrong pixels as if there were as many of both.

        Args:
            images: (B, 3, H, W) float, normalized.
            logits: (B, K, H, W) float, from `forward`.
            evidence: empty.
        """
        judged = self.localizer.judge(images, logits, self.config.localizer.scores)
        return resize_logits(judged, images.shape[-2:]).squeeze(1)


class Gated(Deployable):
    """A segmentation model without the classes that a classifier does not find (s4GAN, section III-C).

    Args:
        segmentation: segmentation model, which is used in place, not copied.
        classifier: classifier of the same classes, which is used in place.
        config: threshold and background, and the configurations of the two models.
    """

    config: GatedConfig

    def __init__(self, segmentation: Deployable, classifier: ImageClassifier, config: GatedConfig) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.classifier = classifier
        self.config = config

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits, with `REMOVED` for classes that are not in the image.

        Args:
            images: (B, 3, H, W) float, normalized.
        """
        kept = self.kept(self.classifier.prob(self.classifier(images)))
        logits: Tensor = self.segmentation.decoder_logits(images)
        return logits.masked_fill(~kept[:, :, None, None], REMOVED)

    def kept(self, prob: Tensor) -> Tensor:
        """Return which classes are kept, (B, K) bool; all, if none is above the threshold.

        Args:
            prob: (B, K) float, probability that each class is present in the image.
        """
        above = prob > self.config.threshold
        if self.config.background is not None:
            label = torch.arange(prob.shape[1], device=prob.device)
            above = above | (label == self.config.background)
        return above | ~above.any(dim=1, keepdim=True)


def log_add_exp(first: Tensor, second: Tensor) -> Tensor:
    """Return log(exp(first) + exp(second)) without the underflow of exported `torch.logaddexp` in fp16."""
    high, low = torch.maximum(first, second), torch.minimum(first, second)
    return high + (low - high).exp().log1p()


def build_deployable(config: DeployableConfig) -> Deployable:
    """Return a new deployable with random weights, ready for `load_state_dict`."""
    if isinstance(config, StudentConfig):
        return Student(SegmentationNetwork(config.network))
    if isinstance(config, EnsembleConfig):
        first, second = (SegmentationNetwork(network) for network in config.branches)
        return FusedEnsemble((first, second), config)
    if isinstance(config, LocalizedConfig):
        student = Student(SegmentationNetwork(config.segmentation.network))
        return Localized(student, new_localizer(config), config)
    return Gated(build_deployable(config.segmentation), ImageClassifier(config.classifier), config)


def new_localizer(config: LocalizedConfig) -> ErrorLocalizer:
    """Return a new error localization network with random weights."""
    network, wanted = config.segmentation.network, config.localizer
    network = network.model_copy(update={"decoder": wanted.decoder or network.decoder})
    return ErrorLocalizer(wanted.encoder, network, pretrained=False)
