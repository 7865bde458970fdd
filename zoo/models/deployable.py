"""What is kept after training: a self-contained module from normalised images to full-size logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from zoo.models.classifier import ClassifierConfig, ImageClassifier
from zoo.models.deeplab import NetworkConfig, SegmentationNetwork, resize_logits

REMOVED = -1e4
"""Logit of a class that the gate removed: below any network's, finite in half precision and in a resize."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        raise NotImplementedError

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Return K of each network, which must all be the same."""
        return tuple(network.num_classes for network in self.networks)


class StudentConfig(_Config):
    """One segmentation network."""

    kind: Literal["student"] = "student"
    network: NetworkConfig

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return (self.network,)


class EnsembleConfig(_Config):
    """Two segmentation networks whose predictions are averaged (RRN).

    Args:
        branches: one for each network.
        weight_1: of the first branch; the second has the rest.
        average: `logits` as the authors' code, or `probabilities`.
        resolution: where the average is taken: on the decoder's grid, or at full size. For logits both are
            the same function; for probabilities the first resizes the logarithm of their average. It is
            cheaper by far.
    """

    kind: Literal["ensemble"] = "ensemble"
    branches: tuple[NetworkConfig, NetworkConfig]
    weight_1: float = Field(0.5, gt=0, lt=1)
    average: Literal["logits", "probabilities"] = "logits"
    resolution: Literal["decoder", "image"] = "decoder"

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return self.branches


class GatedConfig(_Config):
    """Any segmentation model under an image classifier (s4GAN + MLMT).

    Args:
        segmentation: the model whose classes are removed.
        classifier: of the same classes.
        threshold: a class whose probability is not above it is removed; tau = 0.2 in the paper.
        background: class that is never removed, None where the data have none.
    """

    kind: Literal["gated"] = "gated"
    segmentation: Annotated[StudentConfig | EnsembleConfig, Field(discriminator="kind")]
    classifier: ClassifierConfig
    threshold: float = Field(0.2, ge=0, lt=1)
    background: int | None = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_background(self) -> GatedConfig:
        if self.background is not None and self.background >= self.classifier.num_classes:
            raise ValueError(f"background {self.background} is none of {self.classifier.num_classes} classes")
        return self

    @property
    def networks(self) -> tuple[NetworkConfig, ...]:
        """Return the configuration of each segmentation network."""
        return self.segmentation.networks

    @property
    def num_classes(self) -> tuple[int, ...]:
        """Return K of each network, which must all be the same."""
        return *super().num_classes, self.classifier.num_classes


DeployableConfig = Annotated[StudentConfig | EnsembleConfig | GatedConfig, Field(discriminator="kind")]


class Deployable(nn.Module, ABC):
    """A stripped model; its state dict and `config` are all that a bundle stores of it."""

    config: StudentConfig | EnsembleConfig | GatedConfig

    @abstractmethod
    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits at the decoder's resolution, or full size where the model needs it.

        Args:
            images: (B, 3, H, W) float, normalised.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K, H, W) logits.

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        return resize_logits(self.decoder_logits(images), images.shape[-2:])


class Student(Deployable):
    """One segmentation network; its embedding head is dropped.

    Args:
        network: taken over, not copied.
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
            images: (B, 3, H, W) float, normalised.
        """
        logits: Tensor = self.network(images).logits
        return logits


class FusedEnsemble(Deployable):
    """The weighted average of two networks (RRN, section III-E).

    Args:
        branches: taken over, not copied.
        config: how they are averaged; its `branches` are those of the networks.
    """

    config: EnsembleConfig

    def __init__(
        self, branches: tuple[SegmentationNetwork, SegmentationNetwork], config: EnsembleConfig
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.config = config

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return the averaged logits, or the logarithm of the averaged probabilities, (B, K, h, w).

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        first, second = (self._logits(branch, images) for branch in self.branches)
        weight = self.config.weight_1
        if self.config.average == "logits":
            return weight * first + (1 - weight) * second
        return log_add_exp(
            first.log_softmax(dim=1) + math.log(weight), second.log_softmax(dim=1) + math.log1p(-weight)
        )

    def _logits(self, branch: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = branch(images).logits
        return logits if self.config.resolution == "decoder" else resize_logits(logits, images.shape[-2:])


class Gated(Deployable):
    """A segmentation model whose classes must be in the image, by a classifier's word (s4GAN, section III-C).

    Args:
        segmentation: taken over, not copied.
        classifier: of the same classes; taken over.
        config: threshold and background; its other fields are those of the two models.
    """

    config: GatedConfig

    def __init__(self, segmentation: Deployable, classifier: ImageClassifier, config: GatedConfig) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.classifier = classifier
        self.config = config

    def decoder_logits(self, images: Tensor) -> Tensor:
        """Return (B, K, h, w) logits, `REMOVED` for classes that are not in the image.

        Args:
            images: (B, 3, H, W) float, normalised.
        """
        kept = self.kept(self.classifier.prob(self.classifier(images)))
        logits: Tensor = self.segmentation.decoder_logits(images)
        return logits.masked_fill(~kept[:, :, None, None], REMOVED)

    def kept(self, prob: Tensor) -> Tensor:
        """Return which classes stay, (B, K) bool: all of them where none would.

        Args:
            prob: (B, K) float, of each class being in the image.
        """
        above = prob > self.config.threshold
        if self.config.background is not None:
            label = torch.arange(prob.shape[1], device=prob.device)
            above = above | (label == self.config.background)
        return above | ~above.any(dim=1, keepdim=True)


def log_add_exp(first: Tensor, second: Tensor) -> Tensor:
    """Return log(exp(first) + exp(second)); `torch.logaddexp` is exported so that it underflows in fp16."""
    high, low = torch.maximum(first, second), torch.minimum(first, second)
    return high + (low - high).exp().log1p()


def build_deployable(config: DeployableConfig) -> Deployable:
    """Return a deployable of these networks with random weights, ready for `load_state_dict`."""
    if isinstance(config, StudentConfig):
        return Student(SegmentationNetwork(config.network))
    if isinstance(config, EnsembleConfig):
        first, second = (SegmentationNetwork(network) for network in config.branches)
        return FusedEnsemble((first, second), config)
    return Gated(build_deployable(config.segmentation), ImageClassifier(config.classifier), config)
